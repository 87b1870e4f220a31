"""Laws of the card: the licences that a model began with are those that it states."""

from huggingface_hub import ModelCard

from valor.checkpoints.card import Origin, card, folder_origin


def origin(licence):
    return Origin(part="vision", source="somebody/tower", licence=licence)


def test_one_licence_of_all_is_that_of_the_model(tmp_path):
    for licences, stated, name in (
        ([], "mit", None),
        (["apache-2.0", "apache-2.0"], "apache-2.0", None),
        (["apache-2.0", "mit"], "other", "several"),
        (["dinov3-license"], "other", "dinov3-license"),
        (["unknown"], "unknown", None),
    ):
        text = card("A model", "Trained.", [origin(licence) for licence in licences])
        data = ModelCard(text).data
        assert (data.license, data.get("license_name")) == (stated, name)
        assert all(f"| somebody/tower | {licence} |" in text for licence in licences)
        (tmp_path / "README.md").write_text(text)
        found = folder_origin(tmp_path)
        assert (found.source, found.licence) == ("A model", name or stated)


def test_a_folder_without_a_card_has_no_known_licence(tmp_path):
    assert folder_origin(tmp_path).licence == "unknown"
