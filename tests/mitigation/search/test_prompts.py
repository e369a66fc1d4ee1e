import pytest

from artiagent.mitigation.prompts import read_prompts


def test_blanks_repeats_and_comments_are_left_out(tmp_path, capsys) -> None:
    file = tmp_path / "list.txt"
    file.write_text("\ufeff# animals\na  red dog \n\n \na red dog\na cat\n", encoding="utf-8")
    assert read_prompts(file) == ("a red dog", "a cat")
    assert "2 prompts; left out: 2 blank, 1 repeated" in capsys.readouterr().err
    assert read_prompts(file, limit=1) == ("a red dog",)


@pytest.mark.parametrize("content", [b"", b"\n\n# nothing\n", b"\xff\xfe\x00\x01", b"word " * 1000])
def test_files_without_a_prompt_are_refused_by_name(content: bytes, tmp_path) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"list\.txt"):
        read_prompts(tmp_path / "list.txt")


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"none\.txt"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="no text file"):
        read_prompts(tmp_path)


def test_the_embedded_list_is_as_it_should_be(capsys) -> None:
    prompts = read_prompts("configs/prompts/nano.txt")
    assert len(prompts) == 48
    assert not capsys.readouterr().err
