from training.study.report.theme import colour, themed


def test_drawings_name_the_colours_of_the_page() -> None:
    assert (
        themed(f"fill: {colour('ink')}; stroke: {colour('blue')}") == "fill: var(--ink); stroke: var(--blue)"
    )
