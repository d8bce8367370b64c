"""model.toml: every key arrives, and every mistake is named. docs/MODELS.md, "model.toml"."""

from __future__ import annotations

import pytest

from rota.common.errors import CodeError
from rota.gpu_worker.settings import GenerateSettings, ModelSettings, TextSettings, parse_settings

GENERATE = 'task = "generate"\n[generate]\ncontext = 64\ntokenizer = "tokenizer.json"\n'
EMBED = 'task = "embed"\n[text]\ntokenizer = "tokenizer.json"\n'
CLASSIFY = 'task = "classify"\n[text]\ntokenizer = "tokenizer.json"\nlabels = ["no", "yes"]\n'


def test_shapes_and_ranges_arrive() -> None:
    """Goal: several sets of shapes and the ranges of made-up values are read, and the first set stays the first."""
    text = "rows_max = 8\n[[shapes]]\nx = [1, 16]\n[[shapes]]\nx = [1, 32]\n[ranges]\nx = [0, 9.5]\n"
    settings = parse_settings(text, "model.toml")
    assert settings.rows_max == 8
    assert settings.shape_sets(("x",)) == settings.shapes == ({"x": (1, 16)}, {"x": (1, 32)})
    assert settings.ranges == {"x": (0, 9.5)}
    assert list(settings.files()) == []


def test_a_generator_has_its_defaults() -> None:
    """Goal: the smallest table is complete, and the default answer fits a small context."""
    settings = parse_settings(GENERATE, "model.toml")
    assert settings.generate == GenerateSettings(64, "tokenizer.json", max_tokens=63)
    text = (
        f'{GENERATE}template = "chat.jinja"\nslots = 2\nstop_tokens = [2, 3]\nmax_tokens = 9\nlogprobs_max = 5\n'
        "prefix_cache_mb = 0\n"
    )
    settings = parse_settings(text, "model.toml")
    assert settings.generate == GenerateSettings(64, "tokenizer.json", "chat.jinja", 2, (2, 3), 9, 5, 0)
    assert dict(settings.files()) == {"generate.tokenizer": "tokenizer.json", "generate.template": "chat.jinja"}


def test_text_models_have_their_defaults() -> None:
    """Goal: the defaults follow the task, and the shapes follow the buckets."""
    settings = parse_settings(f"{EMBED}buckets = [8, 16]\n", "model.toml")
    assert settings.text == TextSettings("tokenizer.json", (8, 16), 16, "mean", True)
    assert settings.shape_sets(("ids", "mask")) == ({"ids": (1, 8), "mask": (1, 8)}, {"ids": (1, 16), "mask": (1, 16)})
    settings = parse_settings(CLASSIFY, "model.toml")
    assert settings.text == TextSettings("tokenizer.json", labels=("no", "yes"), activation="softmax")
    settings = parse_settings(CLASSIFY.replace('["no", "yes"]', '"labels.json"'), "model.toml")
    assert dict(settings.files()) == {"text.tokenizer": "tokenizer.json", "text.labels": "labels.json"}


def test_without_a_file_the_defaults_hold() -> None:
    """Goal: an empty file says the same as none."""
    assert parse_settings("", "model.toml") == ModelSettings()


MISTAKES = {
    "unknown key": ("thread = 1", ["unknown key 'thread'", "threads"]),
    "unknown key of a table": (f"{GENERATE}slot = 1", ["unknown key 'slot' in [generate]", "slots"]),
    "no TOML": ("threads =", ["no TOML"]),
    "task": ('task = "chat"', ["task", "generate, embed", "'chat'"]),
    "threads": ("threads = 0", ["threads", "1 to 256", "got 0"]),
    "graph level": ('graph_level = "most"', ["graph_level", "extended", "'most'"]),
    "outputs": ("outputs = []", ["outputs", "list of output names"]),
    "truth": ("allow_cpu_nodes = 1", ["allow_cpu_nodes", "true or false"]),
    "rows": ("rows_max = 65", ["rows_max", "1 to 64", "got 65"]),
    "shapes as a table": ("[shapes]\nx = [1]", ["[[shapes]]"]),
    "an empty set of shapes": ("[[shapes]]", ["[[shapes]]"]),
    "a negative extent": ("[[shapes]]\nx = [-1]", ["[[shapes]]"]),
    "too many sets": ("[[shapes]]\nx = [1]\n" * 33, ["1 to 32", "a list of 33"]),
    "a range upside down": ("[ranges]\nx = [2, 1]", ["[lowest, highest]"]),
    "a range without end": ("[ranges]\nx = [0, inf]", ["[lowest, highest]"]),
    "a table for another task": ('[generate]\ncontext = 8\ntokenizer = "t"', ["[generate]", "task = 'tensors'"]),
    "no table": ('task = "generate"', ["task = 'generate'", "needs a table [generate]"]),
    "no table but a value": ('task = "embed"\ntext = 1', ["text must be a table", "got 1"]),
    "no context": ('task = "generate"\n[generate]\ntokenizer = "t"', ["[generate] needs context"]),
    "no tokenizer": ('task = "embed"\n[text]', ["[text] needs tokenizer"]),
    "a path that leads out": (EMBED.replace("tokenizer.json", "../t"), ["text.tokenizer", "in the model's folder"]),
    "an absolute path": (EMBED.replace("tokenizer.json", "/t"), ["text.tokenizer", "in the model's folder"]),
    "an answer without room": (f"{GENERATE}max_tokens = 64", ["generate.max_tokens", "context, 64", "got 64"]),
    "too many log-probabilities": (f"{GENERATE}logprobs_max = 21", ["generate.logprobs_max", "0 to 20"]),
    "a stop token that is text": (f'{GENERATE}stop_tokens = ["x"]', ["generate.stop_tokens", "token numbers"]),
    "shapes of a text model": (f"shapes = [{{x = [1]}}]\n{EMBED}", ["[[shapes]]", "follow from [text]"]),
    "buckets that shrink": (f"{EMBED}buckets = [16, 8]", ["text.buckets", "growing"]),
    "a length over the buckets": (f"{EMBED}buckets = [8]\nlength_max = 9", ["text.length_max", "largest", "8, got 9"]),
    "labels of an embedding": (f'{EMBED}labels = ["a"]', ["text.labels", "task = 'embed'"]),
    "pooling of a classifier": (f'{CLASSIFY}pooling = "mean"', ["text.pooling", "task = 'classify'"]),
    "no labels": (CLASSIFY.replace('labels = ["no", "yes"]', ""), ["[text] needs labels"]),
    "an unknown pooling": (f'{EMBED}pooling = "max"', ["text.pooling", "mean, cls, none", "'max'"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_names_file_key_and_what_is_allowed(mistake: str) -> None:
    """Goal: a user can mend model.toml from the message alone."""
    text, said = MISTAKES[mistake]
    with pytest.raises(CodeError) as caught:
        parse_settings(text, "folder/model.toml")
    assert caught.value.message.startswith("folder/model.toml")
    for part in said:
        assert part in caught.value.message
