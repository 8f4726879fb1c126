"""The parts put together on real text, as a pre-training would."""

from __future__ import annotations

import pytest
import tokenizers
import torch
from torch import Tensor

from pkernels.models import bert, build
from pkernels.models.parts.objectives import (
    MACBERT,
    choose_ngrams,
    corrupt,
    corrupt_similar,
    full_sentences,
    inverse_lengths,
    padded,
    segmented,
    sentence_order_pairs,
    similar_in_table,
)

from ..pairs import paragraphs


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.BertWordPieceTokenizer:
    made = tokenizers.BertWordPieceTokenizer()
    made.train_from_iterator(list(paragraphs())[:600], vocab_size=600, show_progress=False)
    return made


def word_ids(encodings: list[tokenizers.Encoding]) -> Tensor:
    return torch.tensor([[-1 if i is None else i for i in encoding.word_ids] for encoding in encodings])


def test_whole_words_of_english_text(tokenizer: tokenizers.BertWordPieceTokenizer) -> None:
    texts = list(paragraphs())[:64]
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding()
    batch = tokenizer.encode_batch(texts)
    ids, words = torch.tensor([encoding.ids for encoding in batch]), word_ids(batch)
    chosen = choose_ngrams(words, lengths=inverse_lengths(3), generator=torch.Generator().manual_seed(0))
    mask_id = tokenizer.token_to_id("[MASK]")
    masked, labels = corrupt(ids, chosen, mask_id=mask_id, words=600, generator=torch.Generator().manual_seed(0))
    pieces = torch.tensor([[token.startswith("##") for token in encoding.tokens] for encoding in batch])
    assert pieces.sum() > 500  # words of several tokens
    assert torch.equal(chosen[:, 1:][pieces[:, 1:]], chosen[:, :-1][pieces[:, 1:]])
    special = torch.tensor([encoding.special_tokens_mask for encoding in batch]).bool()
    assert special.any() and not chosen[special].any()
    assert abs(float(chosen.sum() / (~special).sum()) - 0.15) < 0.03
    assert torch.equal(torch.where(chosen, labels, masked), ids)


# Chinese: tokens are characters, a segmenter says what a word is.
TEXT = ["使用语言模型来预测下一个词的概率", "我们在公开的中文数据上训练模型", "实验结果表明方法是有效的"]
CUT = [
    ["使用", "语言", "模型", "来", "预测", "下", "一个", "词", "的", "概率"],
    ["我们", "在", "公开", "的", "中文", "数据", "上", "训练", "模型"],
    ["实验", "结果", "表明", "方法", "是", "有效", "的"],
]
THESAURUS = {"使用": ["利用"], "模型": ["样板", "模特儿"], "预测": ["估计"], "结果": ["成果"], "数据": ["资料"]}


def test_chinese_words_become_similar_words() -> None:
    characters = sorted({c for text in [*TEXT, *("".join(v) for v in THESAURUS.values())] for c in text})
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters])}
    tokenizer = tokenizers.BertWordPieceTokenizer(vocabulary)
    batch = [tokenizer.encode(text) for text in TEXT]
    segments = dict(zip(TEXT, CUT, strict=True))
    words = [
        segmented(text, encoding.offsets, segments.__getitem__) for text, encoding in zip(TEXT, batch, strict=True)
    ]
    ids, lengths = padded([encoding.ids for encoding in batch], padding=0)
    numbers, _ = padded(words, padding=-1)
    assert [max(row) + 1 for row in words] == [len(cut) for cut in CUT]
    similar = similar_in_table(THESAURUS, lambda word: tokenizer.encode(word, add_special_tokens=False).ids)
    assert len(similar) == 5

    seen = set()
    for seed in range(60):
        draw = torch.Generator().manual_seed(seed)
        chosen = choose_ngrams(numbers, lengths=MACBERT, rate=0.3, generator=draw)
        masked, labels = corrupt_similar(
            ids, chosen, numbers, similar, words=len(vocabulary), shares=(1.0, 0.0), generator=draw
        )
        assert not (masked == vocabulary["[MASK]"])[~chosen].any()
        assert torch.equal(torch.where(chosen, labels, masked), ids)
        for row, cut in enumerate(CUT):
            read = [tokenizer.id_to_token(int(token)) for token in masked[row, 1 : lengths[row] - 1]]
            place = 0
            for word in cut:
                if word in THESAURUS and chosen[row, place + 1]:
                    assert "".join(read[place : place + len(word)]) == THESAURUS[word][0]
                    seen.add(word)
                place += len(word)
    assert seen == set(THESAURUS)


def test_pretraining_with_ngrams_and_sentence_order_learns(tokenizer: tokenizers.BertWordPieceTokenizer) -> None:
    """ALBERT's data on real text: both losses fall."""
    torch.manual_seed(0)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    sentences = [
        [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in text.split(". ")]
        for text in list(paragraphs())[:120]
    ]
    draw = torch.Generator().manual_seed(0)
    first, last, mask_id = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[MASK]"))
    pairs = list(sentence_order_pairs(sentences, 32, generator=draw))[:16]
    rows = [pair.row(first=first, last=last) for pair in pairs]
    ids, lengths = padded([ids for ids, _ in rows], padding=0)
    types, _ = padded([types for _, types in rows], padding=0)
    special = (ids == first) | (ids == last) | (ids == 0)
    tokens = torch.arange(ids.shape[1]).where(~special, -1)
    chosen = choose_ngrams(tokens, lengths=inverse_lengths(3), generator=draw)
    masked, labels = corrupt(ids, chosen, mask_id=mask_id, words=600, generator=draw)
    config = bert.Config(
        vocab_size=600, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        hidden_dropout_prob=0.0,
    )  # fmt: skip
    model = build("BertForPreTraining", config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    order = torch.tensor([pair.label for pair in pairs])
    assert 0 < order.sum() < 16
    for _ in range(80):
        out = model(masked, lengths=lengths, token_type_ids=types, labels=labels, next_sentence_label=order)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert abs(losses[0] - 6.4 - 0.7) < 0.4  # log(600) + log(2): it knows nothing yet
    assert losses[-1] < 0.2 * losses[0], losses[::10]


def test_rows_of_whole_sentences_are_nearly_full(
    tokenizer: tokenizers.BertWordPieceTokenizer,
) -> None:
    """FULL-SENTENCES of RoBERTa on real text."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    documents = [
        [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in text.split(". ")]
        for text in list(paragraphs())[:200]
    ]
    rows = list(full_sentences(documents, 256, first=1, last=2))
    _, lengths = padded(rows, padding=0)
    assert len(rows) > 20
    assert lengths.float().mean() > 0.85 * 256 and lengths.max() <= 256
