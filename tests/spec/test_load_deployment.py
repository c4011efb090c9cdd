"""Deployment files: what they may say, and that each mistake is told with its path and its mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockyard.errors import DeploymentError
from dockyard.spec.deployment import Keep, StrategyKind
from dockyard.spec.load import keys_of, load_deployment

MINIMAL = 'name = "iris"\nimage = "iris:1"\n'


def error_of(tmp_path: Path, text: str) -> str:
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(DeploymentError) as caught:
        load_deployment(tmp_path / "d.toml")
    assert caught.value.remedy
    assert str(tmp_path / "d.toml") in caught.value.what
    return f"{caught.value.what}\n{caught.value.remedy}"


def test_a_minimal_file_has_defaults(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(MINIMAL)
    found = load_deployment(tmp_path / "d.toml")
    assert (found.replicas, found.strategy.kind, found.strategy.keep) == (1, StrategyKind.ROLLING, Keep.FROZEN)


def test_what_is_given_besides_goes_before_the_file_table_by_table(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(MINIMAL + '[environment]\nA = "1"\nB = "2"\n[resources]\ncpus = 2\n')
    given = {"image": "iris:2", "environment": {"B": "3"}, "resources": {"memory": "1GiB"}}
    found = load_deployment(tmp_path / "d.toml", given)
    assert (found.image, found.environment) == ("iris:2", {"A": "1", "B": "3"})
    assert (found.resources.cpus, found.resources.memory) == (2, "1GiB")


def test_the_keys_at_the_top_are_told(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(MINIMAL + "[strategy]\n")
    assert keys_of(tmp_path / "d.toml") == {"name", "image", "strategy"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('image = "a"', "`name` is missing"),
        ('name = "a"', "`image` is missing"),
        (MINIMAL + "replica = 1", "unknown key `replica`\nDid you mean `replicas`?"),
        (MINIMAL + "[resources]\nmem = 1", "unknown key `resources.mem`"),
        (MINIMAL + "[resources]\nmemry = 1", "Did you mean `memory`?"),
        (MINIMAL + '[[mounts]]\nsource = "/a"\ntarget = "/b"\nwriteable = true', "Did you mean `writable`?"),
        (MINIMAL + '[strategy]\nkind = "canary"', "`strategy.kind`"),
        (MINIMAL + '[strategy]\nkind = "rolling"\npreview = true', "strategy.preview is for blue-green"),
        (MINIMAL + "[strategy]\nmax_surge = 0", "strategy.max_surge and strategy.max_unavailable are both 0"),
        (MINIMAL + '[secrets]\nkey = "relative"', "secrets.key is 'relative'"),
        (MINIMAL + '[[mounts]]\nsource = "a"\ntarget = "/b"', "`mounts[0].source`"),
        (MINIMAL + '[[mounts]]\nsource = "/a/../etc"\ntarget = "/b"', "mounts[0].source is '/a/../etc'"),
        (MINIMAL + 2 * '[[mounts]]\nsource = "/a"\ntarget = "/b"\n', "mounts[1].target '/b' is that of another"),
        (MINIMAL + '[server]\ncommand = ["serve"]', "server.command is there without"),
        (MINIMAL + "replicas = -1", "`replicas`"),
        ('name = "UP"\nimage = "a"', "`name`"),
        ('name = "iris\\n"\nimage = "a"', "`name`"),
        (MINIMAL + '[routing]\nhosts = ["*"]', "`routing.hosts[0]`"),
        (MINIMAL + '[routing]\nhosts = ["a.example", "a..b"]', "`routing.hosts[1]`"),
        (MINIMAL + '[routing]\nhosts = ["a*b.example"]', "`routing.hosts[0]`"),
        (MINIMAL + '[routing]\nhosts = ["a.example\\n"]', "`routing.hosts[0]`"),
        (MINIMAL + '[routing]\nhosts = ["a.example", "a.example"]', "routing.hosts[1] 'a.example' is there twice"),
        (MINIMAL + '[routing]\nhosts = ["shop.localhost"]', "localhost is the gateway's own"),
        (MINIMAL + '[routing]\nhosts = ["*.localhost"]', "localhost is the gateway's own"),
        ("name = ", "is not valid TOML"),
    ],
)
def test_a_mistake_is_told_with_its_path_and_its_mend(tmp_path: Path, text: str, told: str) -> None:
    assert told in error_of(tmp_path, text)


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="does not exist"):
        load_deployment(tmp_path / "none.toml")
