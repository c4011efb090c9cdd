"""Every error that Dockyard raises on purpose, in one tree.

    DockyardError
    ├── ProjectError            dockyard.toml, or a file that it names, is missing or wrong
    ├── LockError               dependencies or packages cannot be resolved, or the lock does not fit
    ├── PreflightError          the image would be built but fail at its first request
    ├── ImageError              an image, layer or blob is unknown, damaged or unsafe
    │   └── ImageNotFoundError  no image of that name in the store
    ├── EvidenceError           what is said of an image is missing, or does not hold
    │   └── SigningKeyError         a key cannot be read or used
    ├── AdvisoryError           what is known of problems is missing, or cannot be imported
    ├── RegistryError           a registry refused, or answered what the protocol does not allow
    ├── StoreError              a store on this machine cannot be read or written
    │   ├── StoreLockedError        another process holds it for longer than the deadline
    │   ├── StoreDamagedError       what it holds is not what was written
    │   └── StoreTooNewError        a newer Dockyard wrote it
    ├── AuditError              the audit log, or a checkpoint of it, does not hold
    ├── DeploymentError         what is asked to be deployed is not a valid deployment
    ├── YardError               the yard cannot do what was asked
    │   ├── UnknownInYardError      no deployment, revision, replica or token of that name
    │   ├── YardConflictError       it does not go together with what is there, or is under way
    │   ├── UnauthenticatedError    the yard does not know who asks
    │   ├── ForbiddenError          it knows, and who asks may not do that
    │   ├── PolicyError             a rule of the yard refuses it
    │   ├── PolicyFileError         the policy cannot be read, so nothing may be deployed
    │   ├── YardNotFoundError       no yard answers there
    │   ├── YardGoneError           it stopped answering in the middle
    │   ├── YardBusyError           it cannot answer now, or not in time
    │   └── YardVersionError        it speaks another version of the API
    ├── EngineError             an engine refused or failed
    │   ├── EngineNotFoundError     no engine answers here
    │   ├── ContainerNotFoundError  no container of that name
    │   ├── PortTakenError          the port asked for is in use
    │   └── StartError              the container ended, or did not get ready, while starting
    ├── GatewayError            the gateway refused its configuration, or does not answer
    └── PredictionError         a model answered with an error, or not at all

Each one says what failed and where (`what`), and how to mend it (`remedy`); the command line prints both and
exits with `exit_code`. Errors of other libraries are translated where they are met, with `raise ... from`.
"""

from __future__ import annotations


class DockyardError(Exception):
    """What failed and where, and what to do about it."""

    exit_code = 1

    def __init__(self, what: str, *, remedy: str = "", detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.detail = detail

    def __str__(self) -> str:
        parts = [self.what, self.detail, self.remedy]
        return "\n".join(part for part in parts if part)


class ProjectError(DockyardError):
    """dockyard.toml, or a file that it names, is missing or wrong."""


class LockError(DockyardError):
    """Dependencies or packages cannot be resolved, or the lock does not fit the project."""


class PreflightError(DockyardError):
    """The image could be built, and would fail at its first request."""


class ImageError(DockyardError):
    """An image, layer or blob is unknown, damaged or unsafe."""


class ImageNotFoundError(ImageError):
    """No image of that name in the store."""


class EvidenceError(DockyardError):
    """What is said of an image (a signature, an attestation) is missing, or does not hold."""


class SigningKeyError(EvidenceError):
    """A key cannot be read or used."""


class AdvisoryError(DockyardError):
    """Advisories, what is known of problems in packages, are missing, damaged, or cannot be imported."""


class RegistryError(DockyardError):
    """A registry refused, or answered what the protocol does not allow."""


class StoreError(DockyardError):
    """A store on this machine (of images, of the yard) cannot be read or written."""


class StoreLockedError(StoreError):
    """Another process holds the store for longer than the deadline."""


class StoreDamagedError(StoreError):
    """What the store holds is not what was written."""


class StoreTooNewError(StoreError):
    """A newer Dockyard wrote the store."""


class AuditError(DockyardError):
    """The audit log, or a checkpoint of it, does not hold."""


class DeploymentError(DockyardError):
    """What is asked to be deployed is not a valid deployment."""


class YardError(DockyardError):
    """The yard cannot do what was asked."""


class UnknownInYardError(YardError):
    """No deployment, revision, replica or token of that name."""


class YardConflictError(YardError):
    """What is asked does not go together with what is there, or with what is under way."""


class UnauthenticatedError(YardError):
    """The yard does not know who asks."""


class ForbiddenError(YardError):
    """The yard knows who asks, and they may not do that."""


class PolicyError(YardError):
    """A rule of the yard, named `rule`, refuses what is asked."""

    def __init__(self, what: str, *, rule: str, remedy: str = "", detail: str = "") -> None:
        super().__init__(what, remedy=remedy, detail=detail)
        self.rule = rule


class PolicyFileError(YardError):
    """The policy is missing where there was one, cannot be read, or is wrong; so nothing may be deployed."""


class YardNotFoundError(YardError):
    """No yard answers at the address."""


class YardGoneError(YardError):
    """The yard stopped answering in the middle of an answer."""


class YardBusyError(YardError):
    """The yard cannot answer now, or not in time."""


class YardVersionError(YardError):
    """The yard speaks another version of the API than this client."""


class EngineError(DockyardError):
    """An engine refused or failed."""


class EngineNotFoundError(EngineError):
    """No engine answers on this machine."""


class ContainerNotFoundError(EngineError):
    """No container of that name."""


class PortTakenError(EngineError):
    """The port asked for is in use."""


class StartError(EngineError):
    """The container ended, or did not become ready, while it was starting."""


class GatewayError(DockyardError):
    """The gateway refused its configuration, ended, or does not answer."""


class PredictionError(DockyardError):
    """A model answered with an error, or did not answer."""
