"""An OCI layout: the folder where images are kept, `oci-layout`, `index.json` and `blobs/`.

It is the local store of the command line and the exchange format with skopeo, umoci and others, whose layouts are read
as well (an index inside the index, Docker's media types). Changes of index.json happen under a lock and by rename, so
two builds at once lose nothing and a killed one leaves the old index. Source: OCI image specification 1.1,
image-layout.md.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dockyard.errors import ImageError, ImageNotFoundError, StoreError
from dockyard.oci import media, wire
from dockyard.oci.artifact import Artifact, Attachment
from dockyard.oci.blobs import PRIVATE, Blobs
from dockyard.oci.digest import Digest, parse_digest
from dockyard.oci.files import exclusive, remove_stale, replace_file, store_errors, sync_folder
from dockyard.oci.image import Descriptor, Image, Platform, choose_platform, manifest_parts
from dockyard.oci.listing import REF_NAME, Entry, Listing, key_of
from dockyard.oci.origins import Origins

_Update = Callable[[list[Entry]], list[Entry]]

__all__ = ["REF_NAME", "Blobs", "Layout", "NamedImage", "artifacts_of"]

SWEEP_AGE = 3600.0
MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_NESTING_LIMIT = 4
_SUBJECTS_LIMIT = 10_000


@dataclass(frozen=True)
class NamedImage:
    """An image and the name that it has in a layout ("" when it has none)."""

    name: str
    image: Image


class Layout:
    """Images, by name, in one folder. Get one by `Layout.create` or `Layout.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = Blobs(path)
        self.origins = Origins(path / PRIVATE / "origins")
        self._listing = Listing(path, self.blobs.partials)
        self._gathered: list[_Update] | None = None
        self._documents: list[bytes] = []
        self._subjects: dict[Digest, Digest | None] = {}

    @classmethod
    def create(cls, path: Path) -> Layout:
        """Open the layout at `path`, making an empty one there when there is none."""
        layout = cls(path)
        with layout._locked(), store_errors(path):
            layout.blobs.folder.mkdir(parents=True, exist_ok=True)
            if not layout._listing.path.exists():
                layout._listing.write([])
            if not (path / "oci-layout").exists():
                replace_file(path / "oci-layout", MARKER, layout.blobs.partials)
        remove_stale(layout.blobs.partials)
        return layout

    @classmethod
    def open(cls, path: Path) -> Layout:
        """Open an existing layout; StoreError when there is none. Removes what killed processes left."""
        layout = cls(path)
        if not (path / "oci-layout").is_file() or not layout._listing.path.is_file():
            raise StoreError(f"{path} is not an OCI layout", remedy="Build or pull an image first, or check the path.")
        remove_stale(layout.blobs.partials)
        return layout

    def add(self, image: Image, name: str) -> None:
        """Give a stored image a name; another image of that name loses it.

        ImageError when one of its blobs is missing. Durable when it returns.
        """
        self._name(replace(image.manifest, platform=image.config.platform), image.blobs, name)

    def _name(self, described: Descriptor, needed: Sequence[Descriptor], name: str) -> None:
        entry = replace(described, annotations={REF_NAME: name})

        def change(entries: list[Entry]) -> list[Entry]:
            self._check_whole(f"image {name}", needed, "Build or pull the image again.")
            return [*_without(entries, name), Entry.of(entry)]

        self._update(change)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Have all that is named and attached within the context stored and listed at its end, together, or not at all.

        For one thread; within it nothing of that is there yet.
        """
        self._gathered, self._documents = [], []
        try:
            yield
            updates, self._gathered = self._gathered, None
            self.blobs.write_all(self._documents)
            self._apply(updates)
        finally:
            self._gathered = None
            self._documents = []

    def store(self, *documents: bytes) -> None:
        """Store documents of what is about to be listed."""
        if self._gathered is not None:
            self._documents.extend(documents)
        else:
            self.blobs.write_all(documents)

    def _check_whole(self, what: str, needed: Sequence[Descriptor], remedy: str) -> None:
        missing = [blob.digest for blob in needed if not self.blobs.has(blob.digest)]
        if missing:
            raise ImageError(f"{what} is not whole: {', '.join(missing)} missing from {self.path}", remedy=remedy)

    def _update(self, change: _Update) -> None:
        if self._gathered is not None:
            self._gathered.append(change)
        else:
            self._apply([change])

    def _apply(self, changes: Sequence[_Update]) -> None:
        """Change the index; what it will list is durable first."""
        with self._locked():
            entries = list(self._listing.read())
            for change in changes:
                entries = change(entries)
            sync_folder(self.blobs.folder)
            self._listing.write(entries)

    def write_index(self, images: Sequence[Image]) -> Descriptor:
        """Store an index of images for several platforms; the same images give the same bytes."""
        entries = [replace(image.manifest, annotations={}, platform=image.config.platform) for image in images]
        entries.sort(key=lambda entry: str(entry.platform))
        document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [one.document() for one in entries]}
        data = wire.encode(document)
        return Descriptor(media.OCI_INDEX, self.blobs.write(data), len(data))

    def add_index(self, index: Descriptor, name: str) -> None:
        """Give a stored index a name, as `add` does for an image; ImageError when part of it is missing."""
        members = [self.load(manifest) for manifest in self.manifests([index])]
        self._name(index, [index, *(blob for image in members for blob in image.blobs)], name)

    def add_entry(self, entry: Descriptor, name: str) -> None:
        """Give an image or an index of this layout a name."""
        if entry.media_type in media.INDEXES:
            self.add_index(entry, name)
        else:
            self.add(self.load(entry), name)

    def remove(self, name: str) -> None:
        """Forget a name; ImageNotFoundError when nothing has it. `sweep` frees the space."""
        with self._locked():
            entries = self._listing.read()
            kept = _without(entries, name)
            if len(kept) == len(entries):
                raise self._unknown(name)
            self._listing.write(kept)

    def attach(self, *attachments: Attachment, instead: Sequence[Artifact] = ()) -> None:
        """Store artifacts next to their subjects, at once, `instead` of others, which are forgotten.

        ImageError when a subject is not here. Durable when it returns.
        """
        self.store(*(document for attachment in attachments for document in attachment.documents))
        self.adopt(*(attachment.artifact for attachment in attachments), instead=instead)

    def adopt(self, *artifacts: Artifact, instead: Sequence[Artifact] = ()) -> None:
        """List artifacts whose blobs are here; ImageError when one of them, or a subject, is missing."""

        def change(entries: list[Entry]) -> list[Entry]:
            for artifact in artifacts:
                needed = (artifact.subject, *artifact.blobs)
                remedy = "Build or pull the image again, then what is attached to it."
                self._check_whole(f"artifact {artifact.digest}", needed, remedy)
            replaced = {artifact.digest for artifact in (*artifacts, *instead)}
            others = [other for other in entries if other.digest not in replaced]
            return [*others, *(Entry.of(artifact.manifest) for artifact in artifacts)]

        self._update(change)

    def detach(self, artifact: Artifact) -> None:
        """Forget an artifact; `sweep` frees the space."""
        with self._locked():
            self._listing.write([entry for entry in self._listing.read() if entry.digest != artifact.digest])

    def referrers(self, subject: Digest, kind: str = "") -> tuple[Artifact, ...]:
        """The artifacts about an image, an index or another artifact; of one kind (a media type) if asked for."""
        known = self._subjects
        about = [one for one in self.entries() if known.get(one.digest, subject) == subject]
        found = (self.artifact(entry) for entry in about if self._subject(entry) == subject)
        return tuple(artifact for artifact in found if artifact and kind in ("", artifact.type))

    def _subject(self, entry: Descriptor) -> Digest | None:
        """What an entry is attached to, if it is; remembered, since a store lists many and content never changes."""
        if entry.digest not in self._subjects:
            manifest = self._manifest(entry)
            if manifest is None:
                return None
            if len(self._subjects) >= _SUBJECTS_LIMIT:
                self._subjects.clear()
            subject = manifest.subject
            self._subjects[entry.digest] = parse_digest(subject.digest) if subject is not None else None
        return self._subjects[entry.digest]

    def artifact(self, entry: Descriptor) -> Artifact | None:
        """The artifact of an entry, if it is one."""
        manifest = self._manifest(entry)
        if manifest is None or manifest.subject is None:
            return None
        return Artifact.decode(entry, self.blobs.read(entry.digest))

    def resolve(self, name: str, platform: Platform | None = None) -> Image:
        """The image of a name (`:latest` may be left out) or of a manifest's digest or image ID.

        Of an image for several platforms the one asked for, or else this machine's. ImageNotFoundError, with the
        names that come close, when there is none; ImageError when it is damaged.
        """
        candidates = [self._with_platform(manifest) for manifest in self.manifests(self._found(name))]
        return self.load(choose_platform(candidates, platform, name))

    def entry(self, name: str) -> Descriptor:
        """What a name (or a digest) stands for: the manifest of an image, or an index of several."""
        return replace(self._found(name)[-1], annotations={})

    def _found(self, name: str) -> list[Descriptor]:
        """The entries of a name, or of a digest or image ID; ImageNotFoundError when there is none."""
        entries = self.entries()
        found = [entry for entry in entries if key_of(entry.annotations.get(REF_NAME, "")) == key_of(name)]
        if not found and name.startswith("sha256:"):
            found = [entry for entry in self._walk(entries) if name in self._digests(entry)]
        if not found:
            raise self._unknown(name)
        return found

    def members(self, entry: Descriptor) -> tuple[Image, ...]:
        """The images of an entry: one, or those of an index."""
        return tuple(self.load(manifest) for manifest in self.manifests([entry]))

    def images(self) -> tuple[NamedImage, ...]:
        """Every image that is here, by name, each platform of it; attachments and absent platforms are left out."""
        found = [
            NamedImage(entry.annotations.get(REF_NAME, ""), self.load(manifest))
            for entry in self.entries()
            for manifest in self.manifests([entry])
        ]
        return tuple(sorted(found, key=lambda named: (named.name, str(named.image.config.platform))))

    def load(self, manifest: Descriptor) -> Image:
        """The image of a manifest in this layout; ImageError when it is missing, damaged or no image."""
        document = self.blobs.read(manifest.digest)
        config = manifest_parts(document, manifest.digest).config
        return Image.decode(manifest, document, self.blobs.read(config.digest))

    def manifests(self, entries: list[Descriptor]) -> list[Descriptor]:
        """The manifests of runnable images under these entries, as far as they are here."""
        found = []
        for entry in self._walk(entries):
            manifest = self._manifest(entry)
            if manifest and manifest.config.media_type in media.CONFIGS and manifest.subject is None:
                found.append(entry)
        return found

    def sweep(self, age: float = SWEEP_AGE, only: Collection[Digest] | None = None) -> int:
        """Remove blobs (`only` these) that no image needs and that are older than `age` s; returns the bytes freed.

        The age keeps what a build, running now, has written and not yet added. Artifacts go with their subject.
        """
        freed = 0
        with self._locked():
            self._forget_orphans(age)
            used = set(self._reachable())
            for digest in self.blobs:
                if only is not None and digest not in only:
                    continue
                path = self.blobs.path(digest)
                with store_errors(path):
                    size = path.stat().st_size
                    if digest not in used and self.age(digest) >= age:
                        path.unlink()
                        freed += size
        return freed

    def forget(self, image: Image) -> None:
        """Remove an image that has no name, and what is attached to it; its layers stay until `sweep` takes them.

        Nothing happens when a name leads to it, itself or in an index.
        """
        with self._locked():
            attached = artifacts_of(self, image.digest)
            gone = {image.digest, *(artifact.digest for artifact in attached)}
            kept = [entry for entry in self._listing.read() if entry.digest not in gone]
            if image.digest in {entry.digest for entry in self._walk(self.entries())}:
                return
            self._listing.write(kept)
            used = set(self._reachable())
            documents = (blob for artifact in attached for blob in artifact.blobs)
            for blob in (image.manifest, image.config_descriptor, *documents):
                if blob.digest not in used:
                    self.blobs.path(parse_digest(blob.digest)).unlink(missing_ok=True)

    def age(self, digest: Digest) -> float:
        """Seconds since a blob was written."""
        return time.time() - self.blobs.path(digest).stat().st_mtime

    def _forget_orphans(self, age: float) -> None:
        """Take artifacts of that age whose subject is no longer named out of the index, and those about them."""
        entries = self._listing.read()
        artifacts = {entry.digest: artifact for entry in self.entries() if (artifact := self.artifact(entry))}
        named = {entry.digest for entry in self._walk(self.entries())} - artifacts.keys()
        while held := {digest for digest, one in artifacts.items() if one.subject.digest in named} - named:
            named |= held
        old = {digest for digest in artifacts.keys() - named if self.age(digest) >= age}
        kept = [entry for entry in entries if entry.digest not in old]
        if len(kept) < len(entries):
            self._listing.write(kept)

    def _reachable(self) -> Iterator[Digest]:
        for entry in self._walk(self.entries()):
            yield entry.digest
            manifest = self._manifest(entry)
            if manifest:
                yield from (parse_digest(part.digest) for part in (manifest.config, *manifest.layers))

    def _manifest(self, entry: Descriptor) -> wire.ManifestWire | None:
        if entry.media_type not in media.MANIFESTS or not self.blobs.has(entry.digest):
            return None
        return wire.decode_manifest(self.blobs.read(entry.digest), f"manifest {entry.digest}")

    def _walk(self, entries: list[Descriptor], depth: int = 0) -> Iterator[Descriptor]:
        """The entries and all that is inside those that are an index."""
        if depth > _NESTING_LIMIT:
            raise ImageError(f"an index in {self.path} is nested too deeply", remedy="Fetch the image again.")
        for entry in entries:
            yield entry
            if entry.media_type in media.INDEXES and self.blobs.has(entry.digest):
                index = wire.decode_index(self.blobs.read(entry.digest), f"index {entry.digest}")
                inner = [Descriptor.of_wire(manifest) for manifest in index.manifests or ()]
                yield from self._walk(inner, depth + 1)

    def _digests(self, entry: Descriptor) -> set[str]:
        """What an index or a manifest answers to: its own digest, a manifest also to its image ID."""
        manifest = self._manifest(entry)
        return {entry.digest} | ({manifest.config.digest} if manifest else set())

    def _with_platform(self, manifest: Descriptor) -> Descriptor:
        if manifest.platform is not None or manifest.artifact_type:
            return manifest
        return replace(manifest, platform=self.load(manifest).config.platform)

    def _unknown(self, name: str) -> ImageNotFoundError:
        names = sorted({entry.annotations[REF_NAME] for entry in self.entries() if REF_NAME in entry.annotations})
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:10]
        known = f"Did you mean {' or '.join(close)}?" if close else "It holds no image yet: build or pull one."
        return ImageNotFoundError(f"no image {name[:200]!r} in {self.path}", remedy=known)

    def entries(self) -> list[Descriptor]:
        """What index.json lists: images, indexes and artifacts."""
        return [entry.descriptor for entry in self._listing.read()]

    def _locked(self) -> AbstractContextManager[None]:
        return exclusive(self.path / PRIVATE / "lock")


def _without(entries: Sequence[Entry], name: str) -> list[Entry]:
    key = key_of(name)
    return [entry for entry in entries if entry.key != key]


def artifacts_of(layout: Layout, subject: Digest) -> tuple[Artifact, ...]:
    """All artifacts about an image, and those about them; each comes after its subject."""
    found: dict[Digest, Artifact] = {}
    waiting = [subject]
    while waiting:
        for artifact in layout.referrers(waiting.pop(0)):
            if artifact.digest not in found:
                found[artifact.digest] = artifact
                waiting.append(artifact.digest)
    return tuple(found.values())
