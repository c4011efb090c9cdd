"""The policy: each rule refuses what it should and nothing else, and says what was found and what to do."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.errors import PolicyError, PolicyFileError
from dockyard.oci.image import Platform
from dockyard.spec.deployment import Deployment, Mount
from dockyard.spec.load import load_policy
from dockyard.spec.policy import Containers, Goldens, Images, Policy, PolicyException, Rule, Signed
from dockyard.supply.policy import Facts, Wishes, facts_of, judge, keys_of, refusal, wishes_of
from dockyard.supply.provenance import Recipe, provenance
from dockyard.supply.sign import attest, sign_image
from dockyard.supply.statement import PROVENANCE, TEST_RESULT, Statement
from tests.oci.samples import AMD64, sample_image

TODAY = date(2027, 1, 15)
NAME = "registry.example.org/models/iris"
STRICT = Policy(
    signed=Signed(required=True),
    goldens=Goldens(required=True),
    images=Images(registries=("registry.example.org/models/*",), bases=("debian",)),
)


@pytest.fixture
def image(layout):
    return sample_image(layout)


def say(layout, image, key, kind, predicate):
    attest(layout, image.manifest, Statement(NAME, image.digest, kind, predicate), key)


def complete(layout, image, key):
    """Signed, tested, and with a provenance."""
    sign_image(layout, image.manifest, NAME, key)
    say(layout, image, key, TEST_RESULT, {"result": "PASSED", "passedTests": ["one"], "failedTests": []})
    say(layout, image, key, PROVENANCE, recipe())


def recipe(base=""):
    made = Recipe("iris", "1", "linux/amd64", {}, "", {"base_image": base}, "2027-01-01T00:00:00Z")
    return provenance(made, [])


def facts(layout, image, *keys, **wishes):
    asked = Wishes("iris", f"{NAME}:1", **wishes)
    return facts_of(layout, image, asked, [key.public for key in keys], AMD64)


def rules(verdict):
    return [one.rule for one in verdict.refused]


def found(verdict):
    (one,) = verdict.refused
    return one.found


def test_an_image_with_everything_passes_the_strictest_policy(layout, image, key):
    complete(layout, image, key)
    verdict = judge(facts(layout, image, key, mounts=("/srv/data",)), STRICT, TODAY)
    assert verdict.allowed
    assert verdict.excepted == ()


def test_an_image_with_nothing_is_refused_by_every_rule_that_asks_for_something(layout, image):
    verdict = judge(facts(layout, image), STRICT, TODAY)
    assert rules(verdict) == [Rule.SIGNED, Rule.GOLDENS, Rule.BASE]
    assert all(one.remedy for one in verdict.refused)


def test_without_a_policy_an_unsigned_image_is_allowed(layout, image):
    assert judge(facts(layout, image), Policy(), TODAY).allowed


def test_a_signature_by_another_key_does_not_count(layout, image, key, stranger):
    complete(layout, image, stranger)
    verdict = judge(facts(layout, image, key), Policy(signed=Signed(required=True)), TODAY)
    assert "must be signed, and is signed only by 3 keys that are not trusted" in found(verdict)


def test_an_attestation_is_no_signature(layout, image, key):
    say(layout, image, key, TEST_RESULT, {"result": "PASSED", "failedTests": []})
    assert rules(judge(facts(layout, image, key), Policy(signed=Signed(required=True)), TODAY)) == [Rule.SIGNED]


def test_a_signature_is_no_golden(layout, image, key):
    sign_image(layout, image.manifest, NAME, key)
    assert rules(judge(facts(layout, image, key), Policy(goldens=Goldens(required=True)), TODAY)) == [Rule.GOLDENS]


@pytest.mark.parametrize(
    ("predicate", "told"),
    [
        ({"result": "FAILED", "failedTests": ["setosa", "virginica"]}, "do not hold: setosa, virginica"),
        ({"result": "PASSED", "failedTests": ["setosa"]}, "do not hold: setosa"),
        ({}, "do not hold: no result"),
    ],
)
def test_goldens_that_failed_are_refused_by_name(layout, image, key, predicate, told):
    say(layout, image, key, TEST_RESULT, predicate)
    assert told in found(judge(facts(layout, image, key), Policy(goldens=Goldens(required=True)), TODAY))


def test_evidence_that_was_changed_refuses_under_every_policy(layout, image, key):
    complete(layout, image, key)
    for artifact in layout.referrers(image.digest):
        path = layout.blobs.path(artifact.layers[0].digest)
        path.write_bytes(path.read_bytes().replace(b"e", b"f", 1))
    exception = PolicyException(rule=Rule.EVIDENCE, reason="we are in a hurry", until=TODAY, deployment="iris")
    for policy in (Policy(), Policy(exceptions=(exception,))):
        assert rules(judge(facts(layout, image, key), policy, TODAY)) == [Rule.EVIDENCE]


@pytest.mark.parametrize(
    ("name", "pattern", "allowed"),
    [
        (f"{NAME}:1", "registry.example.org/models/*", True),
        (f"{NAME}@sha256:{'0' * 64}", "registry.example.org/models/iris", True),
        ("registry.example.org.evil.net/models/iris:1", "registry.example.org/models/*", False),
        ("evil.net/registry.example.org/models/iris", "registry.example.org/models/*", False),
        ("registry.example.org/other/iris", "registry.example.org/models/*", False),
        ("iris:1", "registry.example.org/*", False),
        ("localhost:5000/iris", "localhost:5000/*", True),
    ],
)
def test_only_allowed_registries_pass(layout, image, name, pattern, allowed):
    known = replace(facts(layout, image), wishes=Wishes("iris", name))
    verdict = judge(known, Policy(images=Images(registries=(pattern,))), TODAY)
    assert verdict.allowed is allowed
    assert allowed or rules(verdict) == [Rule.REGISTRY]


@pytest.mark.parametrize(("base", "allowed"), [("", True), ("sha256:" + "a" * 64, True), ("sha256:" + "b" * 64, False)])
def test_only_allowed_bases_pass(layout, image, key, base, allowed):
    say(layout, image, key, PROVENANCE, recipe(base))
    policy = Policy(images=Images(bases=("debian", "sha256:" + "a" * 64)))
    assert judge(facts(layout, image, key), policy, TODAY).allowed is allowed


def test_a_provenance_of_another_builder_and_an_unsigned_one_name_no_base(layout, image, key, stranger):
    policy = Policy(images=Images(bases=("debian",)))
    say(layout, image, stranger, PROVENANCE, recipe())
    assert "no signed provenance" in found(judge(facts(layout, image, key), policy, TODAY))
    say(layout, image, key, PROVENANCE, {"buildDefinition": {"buildType": "theirs"}})
    assert "no signed provenance" in found(judge(facts(layout, image, key), policy, TODAY))


@pytest.mark.parametrize("user", ["0", "root", "0:0", "00", "root:1000", "1000:root"])
def test_an_image_that_says_it_is_root_is_refused(layout, image, user):
    known = replace(facts(layout, image), user=user)
    assert rules(judge(known, Policy(), TODAY)) == [Rule.ROOT]
    assert judge(known, Policy(containers=Containers(allow_root=True)), TODAY).allowed


@pytest.mark.parametrize("user", ["", "65532", "65532:0", "nobody"])
def test_other_users_pass(layout, image, user):
    assert judge(replace(facts(layout, image), user=user), Policy(), TODAY).allowed


@pytest.mark.parametrize(
    ("wishes", "rule", "allowing"),
    [
        ({"privileged": True}, Rule.PRIVILEGED, "unsafe_allow_privileged"),
        ({"host_namespaces": ("network", "pid")}, Rule.HOST_NAMESPACES, "unsafe_allow_host_namespaces"),
        ({"mounts": ("/var/run/docker.sock",)}, Rule.ENGINE_SOCKET, "unsafe_allow_engine_socket"),
        ({"mounts": ("/",)}, Rule.ENGINE_SOCKET, "unsafe_allow_engine_socket"),
        ({"mounts": ("//run/",)}, Rule.ENGINE_SOCKET, "unsafe_allow_engine_socket"),
        ({"mounts": ("/srv/../run",)}, Rule.ENGINE_SOCKET, "unsafe_allow_engine_socket"),
        ({"mounts": ("/home/ada/docker.sock",)}, Rule.ENGINE_SOCKET, "unsafe_allow_engine_socket"),
        ({"mounts": ("/run/containerd",)}, Rule.ENGINE_SOCKET, "unsafe_allow_engine_socket"),
        (
            {"mounts": ("/opt/e",), "engine_sockets": ("/opt/e/x.sock",)},
            Rule.ENGINE_SOCKET,
            "unsafe_allow_engine_socket",
        ),
    ],
)
def test_what_would_hand_over_the_host_is_refused_unless_the_policy_says_so(layout, image, wishes, rule, allowing):
    known = facts(layout, image, **wishes)
    verdict = judge(known, Policy(), TODAY)
    assert rules(verdict) == [rule]
    assert judge(known, Policy(containers=Containers(**{allowing: True})), TODAY).allowed


@pytest.mark.parametrize("mount", ["/srv", "/runs", "/var/runner", "/var/lib/models", "/run/models"])
def test_other_mounts_pass(layout, image, mount):
    assert judge(facts(layout, image, mounts=(mount,)), Policy(), TODAY).allowed


def test_an_image_for_another_architecture_is_refused_and_nothing_but_an_exception_allows_it(layout, image):
    known = replace(facts(layout, image), host=Platform("linux", "arm64"))
    assert found(judge(known, Policy(), TODAY)) == "the image is for linux/amd64, and this host is linux/arm64"


@pytest.mark.parametrize(
    ("exception", "waived"),
    [
        ({"deployment": "iris"}, True),
        ({"deployment": "other"}, False),
        ({"deployment": "iris", "rule": Rule.GOLDENS}, False),
        ({"deployment": "iris", "until": date(2027, 1, 14)}, False),
        ({"image": "sha256:" + "0" * 64}, False),
    ],
)
def test_an_exception_waives_its_rule_for_its_deployment_until_its_day(layout, image, exception, waived):
    given_ = {"rule": Rule.SIGNED, "reason": "trial in the lab", "until": TODAY, **exception}
    policy = Policy(signed=Signed(required=True), exceptions=(PolicyException(**given_),))
    verdict = judge(facts(layout, image), policy, TODAY)
    assert verdict.allowed is waived
    if waived:
        assert verdict.excepted[0].exception.reason == "trial in the lab"
        assert verdict.excepted[0].refused.rule is Rule.SIGNED


def test_an_exception_for_an_image_holds_for_that_image(layout, image):
    exception = PolicyException(rule=Rule.SIGNED, reason="trial in the lab", until=TODAY, image=image.digest)
    policy = Policy(signed=Signed(required=True), exceptions=(exception,))
    assert judge(facts(layout, image), policy, TODAY).allowed


def test_a_refusal_names_every_rule(layout, image):
    error = refusal(judge(facts(layout, image), STRICT, TODAY), "iris")
    assert isinstance(error, PolicyError)
    assert error.rule == "signed,goldens,base"
    assert error.what.startswith("iris may not be deployed: ")
    assert "(rule `signed`)" in error.what
    assert "(rule `goldens`)" in error.detail
    assert "dockyard sign" in error.remedy


@given(
    st.builds(
        Policy,
        signed=st.builds(Signed, required=st.booleans()),
        goldens=st.builds(Goldens, required=st.booleans()),
        images=st.builds(Images, registries=st.sampled_from([(), ("x/*",)]), bases=st.sampled_from([(), ("debian",)])),
        containers=st.builds(Containers, allow_root=st.booleans(), unsafe_allow_privileged=st.booleans()),
    ),
    st.sampled_from(["", "0", "7"]),
    st.booleans(),
)
def test_a_stricter_policy_never_allows_more(policy, user, privileged):
    known = Facts(Wishes("iris", "y/iris", privileged=privileged), "sha256:0", AMD64, AMD64, user, False, 0, (), "")
    strictest = Policy(
        signed=Signed(required=True),
        goldens=Goldens(required=True),
        images=Images(registries=("x/*",), bases=("debian",)),
    )
    refused = set(rules(judge(known, policy, TODAY)))
    assert refused <= set(rules(judge(known, strictest, TODAY)))


def test_what_a_deployment_mounts_is_known_with_links_followed(tmp_path):
    (tmp_path / "innocent").symlink_to("/var/run")
    mounts = (Mount(source=str(tmp_path / "innocent"), target="/data"),)
    asked = Deployment(name="iris", image="iris", mounts=mounts)
    wishes = wishes_of(asked, "iris:1")
    assert wishes.deployment == "iris"
    assert set(wishes.mounts) == {str(tmp_path / "innocent"), os.path.realpath("/var/run")}


def test_the_keys_that_count_are_the_policys_or_else_the_trusted_ones(tmp_path, key, stranger):
    (tmp_path / "team.pub").write_text(key.public.pem)
    policy = Policy(signed=Signed(required=True, keys=("team.pub",)))
    assert keys_of(policy, tmp_path, [stranger.public]) == (key.public,)
    assert keys_of(Policy(), tmp_path, [stranger.public]) == (stranger.public,)
    (tmp_path / "team.pub").write_text("nonsense")
    with pytest.raises(PolicyFileError, match=r"team\.pub"):
        keys_of(policy, tmp_path, [stranger.public])
    (tmp_path / "team.pub").unlink()
    with pytest.raises(PolicyFileError, match=r"team\.pub"):
        keys_of(policy, tmp_path, [stranger.public])


def write(folder: Path, text: str) -> Path:
    (folder / "policy.toml").write_text(text)
    return folder / "policy.toml"


def test_a_policy_is_read_from_its_file(tmp_path):
    text = """
[signed]
required = true
keys = ["team.pub"]

[[exceptions]]
rule = "goldens"
deployment = "iris"
reason = "hardware on its way"
until = 2027-02-01
"""
    policy = load_policy(write(tmp_path, text))
    assert policy.signed == Signed(required=True, keys=("team.pub",))
    assert policy.exceptions[0].until == date(2027, 2, 1)


def test_without_a_file_the_default_holds_unless_one_is_required(tmp_path):
    assert load_policy(tmp_path / "policy.toml") == Policy()
    with pytest.raises(PolicyFileError, match="does not exist") as caught:
        load_policy(tmp_path / "policy.toml", required=True)
    assert "Put it there" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[signd]\nrequired = true", "unknown key `signd`"),
        ("[signed]\nrequird = true", "unknown key `signed.requird`"),
        ("[containers]\nallow_privileged = true", "unknown key `containers.allow_privileged`"),
        ('[signed]\nrequired = "yes"', "`signed.required`"),
        ('[images]\nbases = ["ubuntu"]', "`images.bases"),
        ("[signed", "not valid TOML"),
        (
            '[[exceptions]]\nrule = "signed"\nreason = "because"\nuntil = 2027-01-01\ndeployment = "x"',
            r"exceptions\[0\].reason|exceptions\[...\].reason",
        ),
        ('[[exceptions]]\nrule = "signed"\nreason = "because we may"\nuntil = 2027-01-01', "either a deployment or"),
        ('[[exceptions]]\nrule = "sined"\nreason = "because we may"\nuntil = 2027-01-01', "exceptions"),
        ('[[exceptions]]\nrule = "signed"\nreason = "because we may"\ndeployment = "x"', "until` is missing"),
    ],
)
def test_a_wrong_policy_is_refused_with_the_path_of_the_key(tmp_path, text, told):
    with pytest.raises(PolicyFileError, match=told):
        load_policy(write(tmp_path, text))


def test_a_policy_that_cannot_be_read_refuses(tmp_path):
    (tmp_path / "policy.toml").symlink_to(tmp_path / "gone")
    with pytest.raises(PolicyFileError, match="does not exist"):
        load_policy(tmp_path / "policy.toml")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PolicyFileError, match="cannot be read"):
        load_policy(tmp_path / "folder")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyFileError, match="not valid TOML"):
        load_policy(tmp_path / "bytes")
