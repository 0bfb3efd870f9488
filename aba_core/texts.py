"""20 Newsgroups as 1000 words of 100 numbers: words, word vectors, standard units; without torch.

The published split has 14866 + 1000 + 4000 = 19866 posts, more than the 18846 of the by-date
version, so it is probably of the version with 19997. Here validation and test have the
published sizes and the training pool has the remaining 13846. As there, the split is random:
posts of one thread may lie on both sides, and accuracies are higher than with a split by date.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from aba_core.sources import (
    REPLACE,
    DatasetError,
    Places,
    SourceFile,
    cached,
    content_hash,
    fetch,
    find_file,
    read_checked,
    short_hash,
    tar_files,
    wrong_hash,
)

EMBEDDINGS = ("auto", "glove", "corpus")
_TOKENS = 1000  # a text is cut or padded to this many words
_VOCABULARY = 20000  # most frequent words of the training pool; others are left out
_DIMENSIONS = 100
# The text of GloVe has 350 MB, its lines about 900 bytes: more is no such text, but a bomb.
_MOST_TEXT, _LONGEST_LINE = 2**29, 2**16
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")  # an apostrophe inside a word belongs to it
_TEXT_RECIPE = "1: body after the first blank line, lower case, most frequent words, cut at end"

_GLOVE_FULL = ("glove/glove.6B.100d.txt", "glove/glove.6B.100d.txt.gz", "glove/glove.6B.zip")
_GLOVE_TOP = "glove/glove.6B.100d.top2716.txt.gz"
_GLOVE_SHA256 = {  # of the unpacked text
    "full": "95dde4dfd627ab26608d33e76d1195ec059734bd29089ea52cadb08d07c64544",
    "top2716": "67003571cf98fc143af1c75eae6939361b79f7f2faeba6f2fec7e8d042e595f1",
}
_GLOVE_NOTE = {
    "full": "GloVe 6B 100d",
    "top2716": "GloVe 6B 100d, its 2716 commonest words only",
}
_GLOVE_HELP = (
    "download https://nlp.stanford.edu/data/glove.6B.zip (862 MB) and put it, or "
    "glove.6B.100d.txt from it, into the folder glove/ of"
)

_WINDOW = 5  # words on each side that count as context
_SMOOTHING = 0.75  # exponent of the context distribution
_CORPUS_RECIPE = (
    f"1: PPMI, window {_WINDOW}, context exponent {_SMOOTHING}, truncated SVD, "
    "singular values to the power 1/2"
)


@dataclass(frozen=True)
class _Tokens:
    ids: np.ndarray  # uint16 [text, token], 0 is padding, word k of the vocabulary is k + 1
    labels: np.ndarray  # int64 [text]
    words: tuple[str, ...]
    key: str  # hash of everything that defines them


@dataclass(frozen=True)
class Pool:
    """How the training pool is drawn: vocabulary, vectors and units are made of it alone."""

    draw: Callable[[np.ndarray], np.ndarray]  # its positions, from the labels of all texts
    seed: int
    sizes: tuple[int, int]  # of validation and test, which are left out of it


@dataclass(frozen=True)
class Texts:
    """All texts of a source, in its own order, and the word vectors in standard units."""

    ids: np.ndarray  # uint16 [text, token], row of the embedding
    labels: np.ndarray  # int64 [text]
    embedding: np.ndarray  # float32 [word, dim] in standard units, row 0 is padding
    mean: np.ndarray  # float32 [dim]
    std: np.ndarray  # float32, one for all
    recipe: str  # how the word vectors were made; GloVe's with their hash
    notes: tuple[str, ...]


def read_news(
    file: SourceFile, groups: Sequence[str], pool: Pool, embedding: str, places: Places
) -> Texts:
    """All posts; `embedding` is one of `EMBEDDINGS`."""
    tokens = _news_tokens(file, groups, pool, places)
    drawn = pool.draw(tokens.labels)
    vectors, has_vector, recipe, note = _word_vectors(tokens, drawn, pool.seed, embedding, places)
    used = np.bincount(tokens.ids[drawn].ravel(), minlength=len(vectors))
    table, mean, std = _standard_embedding(vectors, has_vector, used)
    covered = used[1:][has_vector[1:]].sum() / used[1:].sum()
    notes = (
        f"embedding: {note}; {covered:.1%} of the words kept have a vector",
        "by-date version (18846 posts), drawn at random: train pool 13846 where the published "
        "split has 14866",
    )
    return Texts(tokens.ids, tokens.labels, table, mean, std, recipe, notes)


def _news_tokens(file: SourceFile, groups: Sequence[str], pool: Pool, places: Places) -> _Tokens:
    _, path = fetch(file, places)
    content = read_checked(path, file.hashes)
    recipe = (_TEXT_RECIPE, _WORD.pattern, _TOKENS, _VOCABULARY, pool.seed, *pool.sizes)
    key = short_hash(hashlib.sha256(content).hexdigest(), *recipe)

    def build() -> dict[str, np.ndarray]:
        posts, labels = _read_posts(content, path, groups)
        texts = [_WORD.findall(post.lower()) for post in posts]
        count = Counter(word for at in pool.draw(labels) for word in texts[at])
        words = sorted(count, key=lambda word: (-count[word], word))[:_VOCABULARY]
        number = {word: at for at, word in enumerate(words, start=1)}
        ids = np.zeros((len(texts), _TOKENS), dtype=np.uint16)
        for row, text in zip(ids, texts, strict=True):
            kept = [number[word] for word in text if word in number][:_TOKENS]
            row[: len(kept)] = kept
        # words joined into one array of bytes: a NumPy array of strings pads all to the longest
        joined = np.frombuffer(" ".join(words).encode(), np.uint8)
        return {"ids": ids, "labels": labels, "words": joined}

    arrays = cached(f"news-tokens-{key}", build, places)
    words = tuple(arrays["words"].tobytes().decode().split(" "))
    return _Tokens(arrays["ids"], arrays["labels"], words, key)


def _read_posts(content: bytes, path: Path, groups: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Bodies and labels of all posts, training part first, then by group and number.

    The header (everything up to the first blank line) is cut off: it names people
    and hosts. Quotes and signatures stay.
    """
    posts = []
    for name, post in tar_files(content, path):
        part, group = name.parts[0], name.parts[-2] if len(name.parts) == 3 else ""
        if part not in ("20news-bydate-train", "20news-bydate-test") or group not in groups:
            raise DatasetError(f"{path} holds {name}, which is no post of the 20 groups")
        body = post.decode("latin-1").partition("\n\n")[2]
        posts.append((part == "20news-bydate-test", groups.index(group), int(name.name), body))
    posts.sort(key=lambda entry: entry[:3])
    labels = np.array([label for _, label, _, _ in posts], dtype=np.int64)
    return [body for *_, body in posts], labels


def _word_vectors(
    tokens: _Tokens, pool: np.ndarray, seed: int, embedding: str, places: Places
) -> tuple[np.ndarray, np.ndarray, str, str]:
    """Vectors [word, dim] with row 0 for padding, which rows have one, recipe and note."""
    full = next(
        (located for form in _GLOVE_FULL if (located := find_file(form, places))[0]), ("", Path())
    )
    top = find_file(_GLOVE_TOP, places)
    version, (place, path) = ("full", full) if full[0] else ("top2716", top)
    if embedding == "glove" and not place:
        raise DatasetError(f"no GloVe file is here: {_GLOVE_HELP} {places.cache}, or use 'corpus'")
    if embedding == "glove" or (embedding == "auto" and version == "full"):
        recipe = f"glove {_GLOVE_SHA256[version]}"
        note = _GLOVE_NOTE[version]

        def build() -> dict[str, np.ndarray]:
            return _glove_vectors(path, tokens.words, _GLOVE_SHA256[version])
    else:
        recipe = f"corpus {_CORPUS_RECIPE}"
        note = "made from the words of the training pool (PPMI and SVD)"

        def build() -> dict[str, np.ndarray]:
            return {
                "vectors": _corpus_vectors(tokens.ids[pool], len(tokens.words), seed),
                "has_vector": np.arange(len(tokens.words) + 1) > 0,
            }

    arrays = cached(f"news-embedding-{short_hash(tokens.key, recipe)}", build, places)
    if recipe.startswith("glove"):  # the same bits everywhere, unlike a decomposition
        recipe += f" {content_hash(arrays)}"
    return arrays["vectors"], arrays["has_vector"], recipe, note


def _standard_embedding(
    vectors: np.ndarray, has_vector: np.ndarray, used: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard units over the words as they occur: mean per dimension, one deviation for all.

    One deviation keeps the relative lengths of the dimensions. Padding and words without a vector
    are exact zeros, which is the mean word.
    """
    share = np.where(has_vector, used, 0).astype(np.float64)
    share /= share.sum()
    mean = share @ vectors.astype(np.float64)
    centred = vectors - mean
    std = np.sqrt((share @ centred**2).mean())
    table = np.where(has_vector[:, None], centred / std, 0.0)
    return table.astype(np.float32, order="C"), mean.astype(np.float32), np.asarray(std, np.float32)


def _glove_vectors(path: Path, words: Sequence[str], sha256: str) -> dict[str, np.ndarray]:
    """Rows of a GloVe text file ("word number ... number" a line) for the words asked for."""
    number = {word: at for at, word in enumerate(words, start=1)}
    vectors = np.zeros((len(words) + 1, _DIMENSIONS), dtype=np.float32)
    has_vector = np.zeros(len(words) + 1, dtype=bool)
    digest = hashlib.sha256()
    unpacked = 0
    try:
        with _open_text(path) as lines:
            while line := lines.readline(_LONGEST_LINE):
                digest.update(line)
                unpacked += len(line)
                if unpacked > _MOST_TEXT:
                    raise ValueError(f"it unpacks to more than {_MOST_TEXT} bytes")
                word, _, numbers = line.partition(b" ")
                at = number.get(word.decode("utf-8", "replace"))
                if at is not None:
                    vectors[at] = np.array(numbers.split(), dtype=np.float32)
                    has_vector[at] = True
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DatasetError(
            f"{path} is damaged ({error}): its text should have sha256:{sha256}; {REPLACE}"
        ) from error
    if digest.hexdigest() != sha256:
        raise wrong_hash(path, (f"sha256:{sha256}",), f"sha256:{digest.hexdigest()}")
    return {"vectors": vectors, "has_vector": has_vector}


@contextmanager
def _open_text(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open("glove.6B.100d.txt") as lines:
            yield lines
    elif path.suffix == ".gz":
        with gzip.open(path) as lines:
            yield lines
    else:
        with path.open("rb") as lines:
            yield lines


def _corpus_vectors(ids: np.ndarray, words: int, seed: int) -> np.ndarray:
    """Word vectors from the texts themselves; row 0, padding, is zero.

    Positive pointwise mutual information of word and context, reduced by truncated SVD with the
    singular values to the power 1/2 (Levy, Goldberg, Dagan 2015, TACL 3, sections 2 and 3).
    """
    from scipy import sparse
    from sklearn.decomposition import TruncatedSVD

    pairs = sparse.csr_matrix((words + 1, words + 1))
    for distance in range(1, _WINDOW + 1):
        left, right = ids[:, :-distance].ravel(), ids[:, distance:].ravel()
        both = (left > 0) & (right > 0)
        ones = np.ones(both.sum())
        pairs = pairs + sparse.csr_matrix((ones, (left[both], right[both])), shape=pairs.shape)
    pairs = (pairs + pairs.T).tocoo()
    word = np.asarray(pairs.sum(axis=1)).ravel()
    context = word**_SMOOTHING
    information = np.log(pairs.data * context.sum() / (word[pairs.row] * context[pairs.col])).clip(
        min=0
    )
    ppmi = sparse.csr_matrix((information, (pairs.row, pairs.col)), shape=pairs.shape)
    svd = TruncatedSVD(_DIMENSIONS, n_iter=7, random_state=seed)
    vectors = svd.fit_transform(ppmi) / np.sqrt(svd.singular_values_)
    return vectors.astype(np.float32)
