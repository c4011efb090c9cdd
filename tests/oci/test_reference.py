from __future__ import annotations

import pytest

from dockyard.errors import ImageError
from dockyard.oci.digest import digest_of
from dockyard.oci.reference import Reference, tagged

DIGEST = digest_of(b"")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("localhost/iris", Reference("localhost", "iris", "latest")),
        ("localhost:5000/base:1", Reference("localhost:5000", "base", "1")),
        ("127.0.0.1:5000/a/b/c:1", Reference("127.0.0.1:5000", "a/b/c", "1")),
        ("[::1]:5000/a:1", Reference("[::1]:5000", "a", "1")),
        ("registry.example/a__b/c-d.e:v1.2_x-Y", Reference("registry.example", "a__b/c-d.e", "v1.2_x-Y")),
        (f"localhost:5000/base:1@{DIGEST}", Reference("localhost:5000", "base", "1", DIGEST)),
        (f"localhost:5000/base@{DIGEST}", Reference("localhost:5000", "base", "", DIGEST)),
    ],
)
def test_references_are_read_and_written(text, reference):
    assert Reference.parse(text) == reference
    assert Reference.parse(str(reference)) == reference
    assert reference.target == (reference.digest or reference.tag)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no registry"),
        ("iris:1", "names no registry"),
        ("models/iris:1", "names no registry"),
        ("localhost:5000/", "has a repository"),
        ("localhost:5000/Iris", "has a repository"),
        ("localhost:5000/a//b", "has a repository"),
        ("localhost:5000/../b", "has a repository"),
        ("localhost:5000/a?b=c", "has a repository"),
        ("localhost:5000/" + "a" * 300, "has a repository"),
        ("localhost:5000/a:", "has a tag"),
        ("localhost:5000/a:-1", "has a tag"),
        ("localhost:5000/a:" + "1" * 129, "has a tag"),
        ("localhost:5000/a:1/b", "has a tag"),
        ("localhost:x/a:1", "has a registry"),
        ("user:secret.example/a", "has a registry"),
        ("localhost:5000/a@sha256:12", "is not a digest"),
        ("localhost:5000/a@", "is not a digest"),
    ],
)
def test_what_is_no_reference_is_refused_with_an_example(text, says):
    with pytest.raises(ImageError, match=says) as caught:
        Reference.parse(text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("iris", "iris:latest"),
        ("iris:1.2", "iris:1.2"),
        ("models/iris", "models/iris:latest"),
        ("localhost:5000/iris", "localhost:5000/iris:latest"),
        (f"localhost:5000/iris:1@{DIGEST}", "localhost:5000/iris:1"),
    ],
)
def test_names_get_a_tag(name, tag):
    assert tagged(name) == tag


@pytest.mark.parametrize("name", ["", "Iris", "iris:", ":1", "a b", "iris:é", "-iris", "a/../b"])
def test_names_that_no_engine_accepts_are_refused(name):
    with pytest.raises(ImageError, match="cannot be the name"):
        tagged(name)
