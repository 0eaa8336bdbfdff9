"""An image comes from this machine, from its archive, or from its registry: always the one that the manifest names."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from madengine.build.image_archives import archive_of, save_archives
from madengine.errors import BuildError, RunError
from madengine.programs.engine import Docker
from madengine.records import Image
from madengine.run.pull import Puller
from tests.conftest import StandIns

ID, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
DIGEST = f"sha256:{'d' * 64}"
# An image is here once the file of its name is; `load` and `pull` bring what their words name.
ENGINE = """
cd {store}
case $1 in
image) shift 2; for name; do file=$(printf %s "$name" | tr /: __); [ ! -e "$file" ] || cat "$file"; done ;;
load) cat "$3" >loaded; sh loaded ;;
pull) printf '[{{"Id": "{id}"}}]' >"$(printf %s "$2" | tr /: __)" ;;
save) echo archive >"$3" ;;
esac
"""


@pytest.fixture
def puller(stand_ins: StandIns, tmp_path: Path) -> Puller:
    store = tmp_path / "store"
    store.mkdir()
    stand_ins.add("docker", ENGINE.format(store=store, id=ID))
    return Puller(Docker(), threading.Event(), {"MAD_DOCKER_BUILDS": str(tmp_path / "archives")})


def archived(puller: Puller, name: str, *images: str) -> None:
    """Put an archive into the folder; it brings an image under each of these names."""
    folder = Path(puller.environ["MAD_DOCKER_BUILDS"])
    folder.mkdir(exist_ok=True)
    lines = [f"""printf '[{{"Id": "{ID}"}}]' >{image.replace("/", "_").replace(":", "_")}""" for image in images]
    (folder / name).write_text("\n".join(lines))


def test_an_archive_is_found_by_the_name_of_its_image() -> None:
    image = Image("k", "reg:5000/org/im~age:1.0-x")
    assert archive_of(image, {"MAD_DOCKER_BUILDS": "/a"}) == Path("/a/reg_5000_org_im_age_1.0-x.tar")
    assert archive_of(image, {"MAD_DOCKER_BUILDS": " "}) is None


@pytest.mark.parametrize(
    ("image", "expected", "calls"),
    [
        (Image("k", "ci-a", image_id=ID), (ID, ID), ["load"]),
        (
            Image("k", "ci-a", image_id=ID, registry_image="reg.example.com/a", registry_digest=DIGEST),
            (ID, DIGEST),
            ["load"],
        ),
        (Image("k", "org/a"), (ID, ID), ["load"]),
        (Image("k", "org/b"), (ID, ID), ["pull"]),
    ],
)
def test_an_image_that_is_not_here_comes_from_its_archive(
    puller: Puller, stand_ins: StandIns, image: Image, expected: tuple[str, str], calls: list[str]
) -> None:
    archived(puller, "ci-a.tar", ID)
    archived(puller, "org_a.tar", "org/a")
    assert puller.present(image) == expected
    verbs = [line.split()[1] for line in stand_ins.calls()]
    assert [verb for verb in verbs if verb != "image"] == calls
    assert puller.present(image) == expected
    assert [line.split()[1] for line in stand_ins.calls()].count("load") == calls.count("load")


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (Image("k", "ci-a", image_id=OTHER), "ci-a.tar: holds another image than ci-a (sha256:bbbbbbbbbbbb)"),
        (Image("k", "ci-b", image_id=ID), "is not on this machine and was never pushed"),
        (Image("k", "ci-b"), "ci-b: no such image on this machine"),
    ],
)
def test_another_image_than_the_manifests_is_never_run(puller: Puller, image: Image, problem: str) -> None:
    archived(puller, "ci-a.tar", ID)
    with pytest.raises(RunError, match=r".") as raised:
        puller.present(image)
    assert problem in str(raised.value)


def test_a_build_saves_its_images_whole(puller: Puller, tmp_path: Path) -> None:
    save_archives(Docker(), [Image("k", "ci-a", image_id=ID)], puller.environ)
    folder = tmp_path / "archives"
    assert [path.name for path in folder.iterdir()] == ["ci-a.tar"]
    save_archives(Docker(), [Image("k", "ci-a", image_id=ID)], {})
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="Not a directory; MAD_DOCKER_BUILDS names a folder to write to"):
        save_archives(Docker(), [Image("k", "ci-a")], {"MAD_DOCKER_BUILDS": str(tmp_path / "file" / "x")})
