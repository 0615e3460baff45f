"""The folder of a stack: private, and never made of somebody else's."""

import pytest

from retrograd.home import FolderTaken, Home


def mode(path):
    return path.stat().st_mode & 0o777


def test_a_folder_that_is_made_is_private_and_known_for_ours(tmp_path):
    home = Home(tmp_path / "a" / "home")
    assert home.make() == home.path.resolve()
    key = home.api_key
    assert (mode(home.path), mode(home.api_key_file)) == (0o700, 0o600)
    assert (home.path / ".gitignore").read_text() == "*\n"
    home.path.chmod(0o755)
    (home.path / ".gitignore").write_text("# mine\n")
    home.make()
    assert (mode(home.path), home.api_key) == (0o700, key)
    assert (home.path / ".gitignore").read_text() == "# mine\n"
    assert {path.name for path in home.path.iterdir()} == {"api-key", ".gitignore"}


def test_a_folder_of_somebody_elses_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / ".gitignore").write_text("build/\n")
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(FolderTaken, match="holds other things.*a folder of its own by --folder") as caught:
        Home(tmp_path).make()
    assert str(tmp_path) in str(caught.value)
    assert mode(tmp_path) == 0o755
    assert (tmp_path / ".gitignore").read_text() == "build/\n"
    assert {path.name for path in tmp_path.iterdir()} == {".gitignore", "thesis.tex"}


def test_an_empty_folder_is_taken(tmp_path):
    tmp_path.chmod(0o755)
    Home(tmp_path).make()
    assert (mode(tmp_path), Home(tmp_path).api_key is not None) == (0o755, True)


def test_what_is_no_folder_is_none(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Home(tmp_path / "file").make()
