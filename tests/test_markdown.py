"""Tables of cards and result pages."""

from lwm_spectro_hf.markdown import markdown_table


def test_the_first_row_is_the_heading_and_bars_do_not_break_cells():
    assert markdown_table(iter([("", "a | b"), ("x", 1.5)])) == "|  | a \\| b |\n| --- | --- |\n| x | 1.5 |"
