import pytest
import torch

from analysis.report.layers import SIMILAR, strongest
from analysis.spectra.gram import strength
from analysis.text.tokens import OutputDirection, parse_direction
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.errors import InputError
from bilinear_lm.tensor import BilinearTensor
from finetune.data.windows import train_tokenizer


@pytest.fixture(scope="module")
def vocabulary():
    tokenizer = train_tokenizer(["swim"], 260)
    tokenizer.add_tokens([" swim", " run", " fly", "fly", "well-known"])
    return Vocabulary.of(tokenizer, len(tokenizer))


@pytest.mark.parametrize(
    ("text", "token", "against"),
    [
        (" swim", " swim", ()),
        ("swim", " swim", ()),
        ("swim - run", " swim", (" run",)),
        ("␣swim - ␣run,fly ,  ␣fly", " swim", (" run", "fly", " fly")),
        ("-", "-", ()),
        (",", ",", ()),
        ("well-known - -", "well-known", ("-",)),
    ],
)
def test_grammar(vocabulary, text, token, against):
    direction = parse_direction(text, vocabulary)
    assert vocabulary.texts[direction.token] == token
    assert tuple(vocabulary.texts[index] for index in direction.against) == against


@pytest.mark.parametrize("text", ["", "swim-run", "swim - ", "swim - run,", " - run", "swim - run - fly"])
def test_what_the_grammar_does_not_have_is_an_error(vocabulary, text):
    with pytest.raises(InputError, match="is not one token"):
        parse_direction(text, vocabulary)


def test_a_token_against_itself_is_an_error(vocabulary):
    with pytest.raises(InputError, match="against itself"):
        parse_direction("swim - ␣swim", vocabulary)


def test_vector():
    W_U = torch.randn(4, 6)
    torch.testing.assert_close(OutputDirection(2).vector(W_U), W_U[:, 2] - W_U.mean(1))
    torch.testing.assert_close(
        OutputDirection(2, (0, 5)).vector(W_U), W_U[:, 2] - (W_U[:, 0] + W_U[:, 5]) / 2
    )


def test_strongest_takes_the_strongest_rows_that_differ():
    torch.manual_seed(0)
    tensor = BilinearTensor(torch.randn(5, 9), torch.randn(5, 9), torch.randn(9, 5))
    U = torch.randn(40, 5)
    loudest = int(strength(tensor, U).argmax())
    U = torch.cat([U, 0.9 * U[loudest : loudest + 1]])
    rows, strengths = strongest(tensor, U, 4)
    torch.testing.assert_close(strengths, strength(tensor, U))
    assert rows[0] == loudest
    assert strengths[rows].tolist() == sorted(strengths[rows].tolist(), reverse=True)
    cosines = torch.cosine_similarity(U[:, None], U[None], dim=-1)
    assert (cosines[rows][:, rows] - torch.eye(4) < SIMILAR).all()
    weaker = strengths < strengths[rows[-1]]
    passed_over = [row for row in range(41) if not weaker[row] and row not in rows]
    assert 40 in passed_over
    assert all((cosines[row, rows] > SIMILAR).any() for row in passed_over)


def test_strongest_may_find_fewer():
    tensor = BilinearTensor(torch.randn(3, 4), torch.randn(3, 4), torch.randn(4, 3))
    assert len(strongest(tensor, torch.randn(1, 3).expand(5, 3), 3)[0]) == 1
