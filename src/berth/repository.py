"""The models of one server by name and version; the only place that knows which there are.

Protocols ask `find` for the model that a path names; the server puts loaded models in and takes them out again.
"""

from __future__ import annotations

from collections.abc import Iterator

from berth.protocols.base import Refusal
from berth.served import ServedModel


class Repository:
    """What is loaded; the first model to come in is the one that requests without a name mean."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, ServedModel]] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        for versions in self._models.values():
            yield from versions.values()

    def add(self, served: ServedModel) -> ServedModel | None:
        """A version that has been loaded; it is the one that its name means from now on. What it replaces is given."""
        versions = self._models.setdefault(served.name, {})
        old = versions.pop(served.version, None)
        versions[served.version] = served
        return old

    @property
    def why_unready(self) -> str:
        """Why requests are not wanted: no model, or one that nothing runs just now."""
        if not self._models:
            return "no model is loaded"
        return next((served.why_unready for served in self if served.why_unready), "")

    @property
    def why_dead(self) -> str:
        """Why only a new server helps; nothing when it need not."""
        return next((why for served in self if (why := served.why_dead)), "")

    def remove(self, served: ServedModel) -> None:
        """Take a version out; requests that it has in flight are answered."""
        versions = self._models.get(served.name, {})
        if versions.get(served.version) is served:
            del versions[served.version]
        if not versions:
            self._models.pop(served.name, None)

    def find(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """The model of a name (None: the only or first one) and version (None: the latest); Refusal (404) says why."""
        if name is None:
            if not self._models:
                raise Refusal(404, "no model is loaded")
            name = next(iter(self._models))
        versions = self._models.get(name)
        if versions is None:
            known = ", ".join(map(repr, self._models)) or "none"
            raise Refusal(404, f"no model {name!r}; this server has {known}")
        if version is None:
            return versions[next(reversed(versions))]
        if version not in versions:
            known = ", ".join(map(repr, versions))
            raise Refusal(404, f"model {name!r} has no version {version!r}; loaded: {known}")
        return versions[version]

    def own_name(self, name: str, alias: str) -> str:
        """The name of the only model, where `name` is the one that its callers know it by; else `name` as it is."""
        if name and name == alias and name not in self._models and len(self._models) == 1:
            return next(iter(self._models))
        return name

    def split(self, path: str) -> tuple[ServedModel, str]:
        """The model that the beginning of `name[/versions/v]/rest` means, and "/rest"; Refusal (404).

        Names may contain slashes, so the longest name that fits is taken.
        """
        fitting = [name for name in self._models if path == name or path.startswith(name + "/")]
        if not fitting:
            self.find(path.partition("/")[0])
            raise Refusal(404, f"no model at {path!r}")
        name = max(fitting, key=len)
        rest = path[len(name) :]
        if rest.startswith("/versions/"):
            version, slash, tail = rest[len("/versions/") :].partition("/")
            return self.find(name, version), slash + tail
        return self.find(name), rest
