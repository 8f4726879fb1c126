"""ELECTRA's two models: what is sampled, what counts as replaced, and the gradients of both."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pkernels.models import Model, bert, build
from pkernels.models.parts.objectives import (
    ELECTRA,
    ReplacedTokens,
    mask_tokens,
    replaced_loss,
    sample,
    share_embeddings,
)

from ..pairs import assert_close, fill_with_noise
from ..test_bert import MASKS

WORDS, MASK = 40, 3
TINY = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def models(**discriminator) -> tuple[Model, Model]:
    generator = build("BertForMaskedLM", bert.Config(**TINY))
    found = build("BertForTokenClassification", bert.Config(**TINY | discriminator, labels=("replaced",)))
    for seed, model in enumerate((generator, found)):
        fill_with_noise(model, seed)
    return generator, found


def batch(padding: str = "right") -> tuple[Tensor, Tensor, Tensor]:
    """``(masked ids, labels, attention_mask)``."""
    mask = torch.tensor(MASKS[padding])
    ids = torch.randint(4, WORDS, mask.shape, generator=seeded(1))
    return *mask_tokens(ids, mask == 0, mask_id=MASK, words=WORDS, rate=0.5, shares=ELECTRA, generator=seeded(2)), mask


# Sampling -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_samples_follow_the_softmax(dtype: torch.dtype) -> None:
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -torch.inf]).to(dtype)
    drawn = sample(logits.expand(40_000, 5), seeded())
    shares = drawn.bincount(minlength=5) / 40_000
    want = logits.double().softmax(0)
    assert ((shares - want).abs() <= 4 * (want * (1 - want) / 40_000).sqrt()).all()
    assert shares[4] == 0


def test_samples_follow_the_generator_and_carry_no_gradient() -> None:
    logits = torch.zeros(3, 50, 100, requires_grad=True)
    first = sample(logits, seeded(1))
    assert first.shape == (3, 50) and not first.requires_grad
    assert torch.equal(first, sample(logits, seeded(1)))
    assert not torch.equal(first, sample(logits, seeded(2)))


# What counts as replaced ----------------------------------------------------------------


class Oracle(nn.Module):
    """A masked LM that is sure of ``answers (B, S)``."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, input_ids: Tensor, labels: Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=torch.zeros(()), logits=1e4 * F.one_hot(self.answers, WORDS).float())


class Echo(nn.Module):
    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=input_ids.float())


def test_a_right_guess_is_an_original_token() -> None:
    ids = torch.randint(4, WORDS, (4, 30), generator=seeded())
    masked, labels = mask_tokens(ids, ids < 0, mask_id=MASK, words=WORDS, rate=0.5, shares=ELECTRA, generator=seeded())
    chosen = labels != -100
    right = ReplacedTokens(Oracle(ids), Echo())(masked, labels)
    assert torch.equal(right.input_ids, ids) and not right.replaced.any()
    wrong = ReplacedTokens(Oracle((ids + 1) % WORDS), Echo())(masked, labels)
    assert torch.equal(wrong.replaced, chosen)
    assert torch.equal(wrong.input_ids, torch.where(chosen, (ids + 1) % WORDS, ids))
    assert torch.equal(wrong.logits, wrong.input_ids.float())  # the discriminator sees the samples
    # Tokens that were chosen but not hidden are sampled too.
    assert ((masked == ids) & chosen & wrong.replaced).any()


# Losses and gradients -------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["right", "left", "holes", "one"])
def test_losses_and_gradients_agree_with_a_plain_implementation(padding: str) -> None:
    generator, discriminator = (model.double() for model in models())
    masked, labels, mask = batch(padding)
    electra = ReplacedTokens(generator, discriminator)
    out = electra(masked, labels, draw=seeded(), attention_mask=mask)
    out.loss.backward()
    both = [*generator.named_parameters(), *discriminator.named_parameters()]
    got = [parameter.grad.clone() for _, parameter in both]

    chosen = labels != -100
    guessed = generator(masked, attention_mask=mask).logits
    masked_loss = -guessed.log_softmax(-1)[chosen].gather(1, labels[chosen][:, None]).mean()
    score = discriminator(out.input_ids, attention_mask=mask).logits[..., 0]
    true = torch.where(chosen, labels, masked)
    y = (out.input_ids != true).double()
    terms = -(y * score.sigmoid().log() + (1 - y) * (-score).sigmoid().log())
    found_loss = terms[mask.bool()].sum() / mask.sum()
    loss = masked_loss + 50 * found_loss
    assert_close(out.generator_loss, masked_loss, "generator_loss")
    assert_close(out.discriminator_loss, found_loss, "discriminator_loss")
    assert_close(out.loss, loss, "loss")
    want = torch.autograd.grad(loss, [parameter for _, parameter in both])
    for (name, _), mine, theirs in zip(both, got, want, strict=True):
        assert_close(mine, theirs, name)
    assert y.any() and (mask == 0).any() == (padding != "one")


def test_lengths_and_offsets_are_the_same_batch() -> None:
    electra = ReplacedTokens(*models()).double()
    masked, labels, mask = batch("right")
    want = electra(masked, labels, draw=seeded(), attention_mask=mask)
    lengths, real = mask.sum(1), mask.bool()
    by_lengths = electra(masked, labels, draw=seeded(), lengths=lengths)
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    packed = electra(masked[real][None], labels[real][None], draw=seeded(), offsets=offsets)
    for out in (by_lengths, packed):
        assert_close(out.loss, want.loss, "loss")


def test_the_discriminator_teaches_the_generator_nothing() -> None:
    generator, discriminator = models()
    masked, labels, mask = batch()
    out = ReplacedTokens(generator, discriminator)(masked, labels, draw=seeded(), attention_mask=mask)
    out.discriminator_loss.backward()
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert any(parameter.grad.any() for parameter in discriminator.parameters())


def test_the_weight_scales_the_discriminators_loss() -> None:
    masked, labels, mask = batch()
    for weight in (0.0, 50.0, 7.0):
        electra = ReplacedTokens(*models(), **({} if weight == 50 else {"weight": weight}))
        out = electra(masked, labels, draw=seeded(), attention_mask=mask)
        assert_close(out.loss, out.generator_loss + weight * out.discriminator_loss, "loss")


def test_padding_costs_nothing() -> None:
    logits, replaced = torch.randn(2, 3), torch.tensor([[True, False, True], [False, False, True]])
    real = torch.tensor([[True, True, False], [True, False, False]])
    want = F.binary_cross_entropy_with_logits(logits[real], replaced[real].float())
    assert_close(replaced_loss(logits, replaced, real), want, "loss")
    logits[~real] = torch.nan
    assert_close(replaced_loss(logits, replaced, real), want, "loss")


# Shared embeddings ----------------------------------------------------------------------


def test_both_learn_the_same_embeddings() -> None:
    generator, discriminator = models()
    alone = generator.num_parameters() + discriminator.num_parameters()
    share_embeddings(generator, discriminator)
    electra = ReplacedTokens(generator, discriminator)
    shared = (WORDS + TINY["max_position_embeddings"] + 2) * TINY["hidden_size"]
    assert sum(p.numel() for p in electra.parameters()) == alone - shared
    masked, labels, mask = batch()

    def gradient(loss: str) -> Tensor:
        out = electra(masked, labels, draw=seeded(), attention_mask=mask)
        return torch.autograd.grad(getattr(out, loss), discriminator.body.embeddings.words.weight)[0]

    both = gradient("generator_loss") + 50 * gradient("discriminator_loss")
    assert gradient("generator_loss").any()
    assert_close(gradient("loss"), both, "gradient of the words")


def test_embeddings_of_another_width_cannot_be_shared() -> None:
    generator, discriminator = models(hidden_size=18)
    before = generator.body.embeddings.words
    with pytest.raises(ValueError, match=r"generator: words of shape \(40, 18\).*got \(40, 16\)"):
        share_embeddings(generator, discriminator)
    assert generator.body.embeddings.words is before


# Learning -------------------------------------------------------------------------------


def test_training_tells_replaced_tokens_from_original_ones() -> None:
    """Texts of one word each: another one is a replaced one."""
    torch.manual_seed(0)
    config = TINY | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.1}
    generator = build("BertForMaskedLM", bert.Config(**config | {"num_hidden_layers": 1}))
    discriminator = build("BertForTokenClassification", bert.Config(**config, labels=("replaced",)))
    share_embeddings(generator, discriminator)
    electra = ReplacedTokens(generator, discriminator).train()
    optimizer = torch.optim.AdamW(electra.parameters(), lr=3e-3)
    draw, losses, guesses, shares = seeded(), [], [], []
    for _ in range(150):
        ids = torch.randint(4, WORDS, (32, 1), generator=draw).expand(32, 12)
        masked, labels = mask_tokens(ids, ids < 0, mask_id=MASK, words=WORDS, shares=ELECTRA, generator=draw)
        out = electra(masked, labels, draw=draw)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.discriminator_loss.item())
        guesses.append(out.generator_loss.item())
        shares.append(float(out.replaced.float().mean()))
    assert abs(guesses[0] - 3.7) < 0.2  # log(40): it knows nothing yet
    assert sum(guesses[-20:]) / 20 < 0.7 * guesses[0], guesses[::10]
    # Knowing how many are replaced would still cost this much.
    share = torch.tensor(shares[-20:]).mean()
    entropy = -(share * share.log() + (1 - share) * (1 - share).log())
    assert sum(losses[-20:]) / 20 < 0.5 * entropy, (losses[::10], entropy)
