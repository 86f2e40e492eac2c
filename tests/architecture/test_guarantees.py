"""What docs/guarantees.md claims is what the tests show."""

from tests.faults.catalogue import PAGE, ROWS, WITHOUT_TEST, page, proofs


def test_every_row_of_the_catalogue_has_a_test():
    assert ROWS.keys() - proofs().keys() - WITHOUT_TEST.keys() == set()


def test_no_excuse_outlives_its_reason():
    assert WITHOUT_TEST.keys() & proofs().keys() == set()


def test_no_test_is_named_after_a_row_that_is_not_there():
    assert proofs().keys() - ROWS.keys() == set()


def test_every_proof_says_what_it_shows():
    assert [proof.name for several in proofs().values() for proof in several if not proof.shows] == []


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run `make guarantees`"
