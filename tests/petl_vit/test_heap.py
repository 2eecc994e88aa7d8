from petl_vit import heap


def test_freed_memory_is_kept_unless_the_user_has_set_otherwise() -> None:
    options: dict[int, int] = {}
    heap.keep({"MALLOC_ARENA_MAX": "4"}, mallopt=options.__setitem__)
    assert options == {-3: heap.LARGEST_BLOCK, -1: heap.ALL}
