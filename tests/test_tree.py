"""The annotated tree in docs/architecture.md is the package on the disk."""

from tree import PAGE, page_with_tree, summary, tree_lines


def test_the_tree_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page_with_tree(), "run: python tools/tree.py --write"


def test_files_stand_before_folders_with_the_first_sentence_of_their_docstrings(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "__init__.py").write_text('"""A package: of one file."""')
    (tmp_path / "a" / "b.py").write_text('"""One file. And more."""')
    (tmp_path / "c.py").write_text('"""Another one."""')
    assert [line.split(maxsplit=1) for line in tree_lines(tmp_path)] == [
        ["c.py", "Another one"],
        ["a/", "A package: of one file"],
        ["b.py", "One file"],
    ]
    assert summary(tmp_path / "c.py") == "Another one"
