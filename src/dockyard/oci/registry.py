"""Pull images from registries and push them there, every digest verified, only what is missing.

The command line calls it to fetch bases and to publish images. A blob is asked for (HEAD) before it is sent, and sent
in one request; several travel at once. Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from dockyard.errors import ImageError, RegistryError
from dockyard.oci import media, wire
from dockyard.oci.artifact import Artifact, is_subject_tag, subject_tag
from dockyard.oci.auth import CredentialSource, DockerConfig
from dockyard.oci.digest import Digest, digest_of
from dockyard.oci.image import Descriptor, Image, ImageConfig, Platform, choose_platform, manifest_parts
from dockyard.oci.layout import Layout
from dockyard.oci.origins import SMALLEST
from dockyard.oci.reference import Reference, tagged
from dockyard.oci.transfers import fetch_blob, send_blob
from dockyard.oci.transport import Patience, Response, TransientError, Transport

__all__ = ["Patience", "Reference", "Registry", "TransientError", "tagged"]

_AT_ONCE = 3
_REFERRERS_LIMIT = 1000
_REFERRERS_DEPTH = 3  # an image, its attestations, and what is said of those
_Moved = TypeVar("_Moved")
_ACCEPTED = (media.OCI_MANIFEST, media.OCI_INDEX, media.DOCKER_MANIFEST, media.DOCKER_INDEX)


class Registry:
    """A client of any registry. Credentials are those of `docker login` unless others are given."""

    def __init__(self, credentials: CredentialSource | None = None, patience: Patience | None = None) -> None:
        self._credentials = credentials or DockerConfig.of_environment()
        self._patience = patience or Patience()

    def pull(self, reference: Reference, platform: Platform | None, layout: Layout) -> Image:
        """Fetch an image into a layout and name it there like the reference.

        Of an image for several platforms the one asked for, or this machine's. RegistryError when the registry
        refuses, cannot be reached in time, or serves bytes of another digest; ImageNotFoundError when it has no image
        for the platform.
        """
        with self._transport(reference, "pull") as transport:
            manifest, data = _manifest(transport, reference.target, reference.digest)
            if manifest.media_type in media.INDEXES:
                index = wire.decode_index(data, f"index {manifest.digest}")
                told = [Descriptor.of_wire(entry) for entry in index.manifests or ()]
                chosen = choose_platform(told, platform, str(reference))
                manifest, data = _manifest(transport, chosen.digest, chosen.digest)
            parts = manifest_parts(data, manifest.digest)
            fetch_blob(transport, layout, parts.config)
            config = layout.blobs.read(parts.config.digest)
            found = ImageConfig.decode(config, f"the configuration of {reference}").platform
            choose_platform([replace(manifest, platform=found)], platform, str(reference))
            for layer in parts.layers:
                media.codec_of(layer.media_type)
            _fetch_image(transport, layout, data, manifest.digest)
        image = Image.decode(manifest, data, config)
        layout.add(image, str(reference))
        return image

    def pull_entry(self, reference: Reference, layout: Layout) -> Descriptor:
        """Fetch what a reference stands for, with all its platforms, and name it in the layout; see `pull`."""
        with self._transport(reference, "pull") as transport:
            entry, data = _manifest(transport, reference.target, reference.digest)
            if entry.media_type in media.INDEXES:
                for told in wire.decode_index(data, f"index {entry.digest}").manifests or ():
                    member = Descriptor.of_wire(told)
                    _fetch_image(
                        transport, layout, _manifest(transport, member.digest, member.digest)[1], member.digest
                    )
                layout.blobs.write(data)
            else:
                _fetch_image(transport, layout, data, entry.digest)
        layout.add_entry(entry, str(reference))
        return entry

    def push_entry(self, entry: Descriptor, layout: Layout, reference: Reference) -> tuple[Descriptor, ...]:
        """Send an image, or an index with all its images, as `push` does."""
        if entry.media_type in media.INDEXES:
            return self.push_index(entry, layout, reference)
        return self.push(layout.load(entry), layout, reference)

    def push(self, image: Image, layout: Layout, reference: Reference) -> tuple[Descriptor, ...]:
        """Send what the registry lacks of an image, then its manifest; returns the blobs that were sent.

        The image gets the reference's tag, or is known by its digest alone.

        RegistryError when the registry refuses or cannot be reached in time; ImageError when a blob is damaged, or
        the reference has the digest of another image.
        """
        if reference.digest not in {None, image.digest}:
            raise ImageError(
                f"{reference} is the digest of another image than {image.digest}",
                remedy="Leave out the digest: it follows from the image.",
            )
        with self._transport(reference, "pull,push") as transport:
            return _push_image(transport, layout, image, reference.tag or image.digest)

    def push_index(self, index: Descriptor, layout: Layout, reference: Reference) -> tuple[Descriptor, ...]:
        """Send an index with all its images; see `push`. The images are known by their digests alone."""
        with self._transport(reference, "pull,push") as transport:
            images = layout.members(index)
            sent = [blob for image in images for blob in _push_image(transport, layout, image, image.digest)]
            _put_manifest(transport, index, layout.blobs.read(index.digest), reference.tag or index.digest)
        return tuple(sent)

    def push_artifacts(self, artifacts: Sequence[Artifact], layout: Layout, reference: Reference) -> int:
        """Send artifacts to the repository of their subject, which is there already; returns the bytes sent.

        Each has a tag of its own. Where the registry does not list referrers by itself, the list under the subject's
        tag is kept up to date. RegistryError when the registry refuses.
        """
        blobs = _unique(blob for artifact in artifacts for blob in (*artifact.layers, artifact.config))
        unlisted: dict[Digest, list[Artifact]] = {}
        with self._transport(reference, "pull,push") as transport:
            sent = _together(lambda blob: send_blob(transport, layout, blob, layout.origins), blobs)
            for artifact in artifacts:
                response = _put_manifest(transport, artifact.manifest, layout.blobs.read(artifact.digest), artifact.tag)
                if response.headers.get("OCI-Subject") != artifact.subject.digest:
                    unlisted.setdefault(artifact.subject.digest, []).append(artifact)
            for subject, some in unlisted.items():
                _list_by_tag(transport, subject, some)
        moved = sum(blob.size for blob, was_sent in zip(blobs, sent, strict=True) if was_sent)
        return moved + sum(artifact.manifest.size for artifact in artifacts)

    def pull_artifacts(self, reference: Reference, subject: Digest, layout: Layout) -> tuple[Artifact, ...]:
        """Fetch what refers to an image (or to what refers to it) into the layout that has the image; returns it.

        Every byte is verified against its digest, and that each artifact names this subject.
        """
        with self._transport(reference, "pull") as transport:
            return tuple(_fetch_referrers(transport, subject, layout, depth=0))

    def lacking(self, reference: Reference, digests: Sequence[Digest]) -> set[Digest]:
        """The blobs that a repository lacks, of these; nothing is sent."""
        with self._transport(reference, "pull") as transport:
            return {
                digest for digest in digests if not transport.patiently(partial(transport.exists, f"blobs/{digest}"))
            }

    def tags(self, reference: Reference) -> tuple[str, ...]:
        """The tags of a repository, sorted; tags that belong to attached artifacts are left out."""
        with self._transport(reference, "pull") as transport:
            pages = transport.patiently(lambda: list(transport.pages("tags/list")))
        if not pages:
            raise RegistryError(
                f"registry {reference.registry} has no repository {reference.repository}",
                remedy="Check the name; a private repository also looks so when you are not logged in.",
            )
        what = f"the tags of {reference.registry}/{reference.repository}"
        names = {name for page in pages for name in wire.decode(page, wire.TagsWire, what).tags or ()}
        return tuple(sorted(name for name in names if not is_subject_tag(name)))

    @contextmanager
    def _transport(self, reference: Reference, actions: str) -> Iterator[Transport]:
        transport = Transport(reference.registry, reference.repository, actions, self._credentials, self._patience)
        try:
            yield transport
        finally:
            transport.close()


def _unique(descriptors: Iterable[Descriptor]) -> list[Descriptor]:
    return list({descriptor.digest: descriptor for descriptor in descriptors}.values())


def _together(transfer: Callable[[Descriptor], _Moved], descriptors: list[Descriptor]) -> list[_Moved]:
    """Run transfers, a few at once, and return what each did; the first error ends those that have not begun."""
    with ThreadPoolExecutor(_AT_ONCE, "transfer") as pool:
        running = [pool.submit(transfer, descriptor) for descriptor in descriptors]
        try:
            return [each.result() for each in running]
        finally:
            for each in running:
                each.cancel()


def _manifest(transport: Transport, target: str, expected: Digest | None) -> tuple[Descriptor, bytes]:
    """A manifest or an index, by tag or digest, verified when its digest is known."""

    def fetch() -> tuple[Descriptor, bytes]:
        response = transport.get(f"manifests/{target}", _ACCEPTED)
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        data = transport.document(response)
        digest = digest_of(data)
        if expected is not None and digest != expected:
            raise transport.refused(f"served a manifest with digest {digest}, asked for was {expected}")
        if media_type not in _ACCEPTED:
            raise transport.refused(f"served {target} as {media_type[:100]!r}, which is no image")
        return Descriptor(media_type, digest, len(data)), data

    return transport.patiently(fetch)


def _list_by_tag(transport: Transport, subject: Digest, artifacts: Sequence[Artifact]) -> None:
    """Add artifacts to the list that stands in for the referrers API, keeping what others have put there."""
    tag, own = subject_tag(subject), {artifact.digest for artifact in artifacts}

    def add() -> None:
        listed = [entry for entry in _listed(transport, tag) if entry.digest not in own]
        entries = [entry.document() for entry in (*listed, *(artifact.manifest for artifact in artifacts))]
        data = wire.encode({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries})
        transport.send("PUT", f"manifests/{tag}", data, {"Content-Type": media.OCI_INDEX}, (201,))

    transport.patiently(add)


def _listed(transport: Transport, tag: str) -> list[Descriptor]:
    response = transport.find(f"manifests/{tag}", (media.OCI_INDEX,))
    if response is None:
        return []
    index = wire.decode_index(transport.document(response), f"the list {tag} of {transport.registry}")
    return [Descriptor.of_wire(entry) for entry in index.manifests or ()]


def _referrers(transport: Transport, subject: Digest) -> list[Descriptor]:
    """What refers to an image, by the registry's own list and by the tag that may stand in for it."""

    def fetch() -> list[Descriptor]:
        what = f"the referrers of {subject}"
        pages = [wire.decode_index(page, what) for page in transport.pages(f"referrers/{subject}")]
        return [Descriptor.of_wire(entry) for page in pages for entry in page.manifests or ()]

    found = [*transport.patiently(fetch), *transport.patiently(lambda: _listed(transport, subject_tag(subject)))]
    if len(found) > _REFERRERS_LIMIT:
        raise transport.refused(f"lists more than {_REFERRERS_LIMIT} referrers of {subject}")
    return _unique(found)


def _fetch_referrers(transport: Transport, subject: Digest, layout: Layout, depth: int) -> Iterator[Artifact]:
    if depth >= _REFERRERS_DEPTH:
        return
    for told in _referrers(transport, subject):
        manifest, data = _manifest(transport, told.digest, told.digest)
        artifact = Artifact.decode(manifest, data)
        if artifact.subject.digest != subject:
            raise transport.refused(f"lists {told.digest} as a referrer of {subject}, but it is one of another image")
        for blob in _unique((artifact.config, *artifact.layers)):
            fetch_blob(transport, layout, blob)
        layout.blobs.write(data)
        layout.adopt(artifact)
        yield artifact
        yield from _fetch_referrers(transport, artifact.digest, layout, depth + 1)


def _fetch_image(transport: Transport, layout: Layout, data: bytes, digest: Digest) -> None:
    """Bring all blobs of a manifest into the layout, and the manifest itself."""
    parts = manifest_parts(data, digest)
    _together(lambda blob: fetch_blob(transport, layout, blob), _unique((parts.config, *parts.layers)))
    _remember(transport, layout, parts.layers)
    layout.blobs.write(data)


def _push_image(transport: Transport, layout: Layout, image: Image, target: str) -> tuple[Descriptor, ...]:
    """Send what is missing of an image, then its manifest to a tag or digest; the blobs that were sent."""
    blobs = _unique((*image.layers, image.config_descriptor))
    sent = _together(lambda blob: send_blob(transport, layout, blob, layout.origins), blobs)
    _put_manifest(transport, image.manifest, layout.blobs.read(image.digest), target)
    _remember(transport, layout, image.layers)
    return tuple(blob for blob, moved in zip(blobs, sent, strict=True) if moved)


def _remember(transport: Transport, layout: Layout, layers: Sequence[Descriptor]) -> None:
    """Note that this repository has these layers, for a push to another one."""
    large = [layer.digest for layer in layers if layer.size >= SMALLEST]
    layout.origins.keep(transport.registry, transport.repository, large)


def _put_manifest(transport: Transport, manifest: Descriptor, data: bytes, target: str) -> Response:
    def put() -> Response:
        response = transport.send("PUT", f"manifests/{target}", data, {"Content-Type": manifest.media_type}, (201,))
        stored = response.headers.get("Docker-Content-Digest", manifest.digest)
        if stored != manifest.digest:
            raise RegistryError(
                f"registry {transport.registry} stored the image as {stored}, not as {manifest.digest}",
                remedy="Do not use this registry for signed images: it rewrites manifests.",
            )
        return response

    return transport.patiently(put)
