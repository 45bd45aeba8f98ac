"""Objective of the attribute encoder: CLIP's InfoNCE on face crops and captions, for the face and for its regions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

from ..attributes.encoding import embed_ids, encode_attributes, tokenize
from ..faces.semantic_map import draw_semantic_map
from ..models.face_encoder import FaceEncoder
from .captions import ATTRIBUTES, FACTS, codes, facts, greyed, label_glasses, matching_captions, phrase, sample_facts
from .data import SEX, Balance, FaceCache, FaceDataset, random_look, random_mesh, random_view, to_tensor
from .generator import Objective

_KEEP = (0.15, 0.4, 0.8)  # share of the known facts that a caption says: some say one thing, some nearly all
_GREY = 0.5  # share of the crops whose colour is taken out: few portraits have the colours of the world's cameras
_TURN, _ZOOM = 0.25, 0.2  # of the random views, see `random_view`
_MATTERS = {"person": 3.0, "age": 3.0}  # weights of questions whose answers are hardest to read from few faces
_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Sequence[str], folder: Path, *, vocab_size: int, model_max_length: int) -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's kind and file layout, learned from captions and saved to ``folder``."""
    tokenizer = Tokenizer(models.BPE(unk_token=_END, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(
        Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    # Every character can also end a word, and the two marks come last, as in CLIP's own vocabulary.
    vocab = json.loads((folder / "vocab.json").read_text())
    for token in [*(f"{letter}</w>" for letter in alphabet), _START, _END]:
        vocab.setdefault(token, len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "tokenizer.json").unlink(missing_ok=True)  # of an earlier run; it would win over the two files
    saved = CLIPTokenizer.from_pretrained(folder, model_max_length=model_max_length)
    saved.save_pretrained(folder)
    return saved


class CaptionedFaces(FaceDataset):
    """Crops in a random view and look, with their maps and a caption drawn anew each time.

    Items: ``pixels`` (3, S, S) in -1..1, ``labels`` (S, S) int64, ``mesh`` (478, 2) crop pixels, ``input_ids`` (T,)
    int64, ``facts`` and ``caption`` (F,) int64, codes of what is known and of what the caption says. An item is of a
    face drawn at random, so that men and women are as many of each kind of picture: or "photographs, not paintings, are
    of men" is what is learned.
    """

    def __init__(
        self, cache: FaceCache, tokenizer: CLIPTokenizer, said: Sequence[Mapping[str, str]], seed: int
    ) -> None:
        super().__init__(cache, seed)
        self.tokenizer, self.said = tokenizer, said
        sexes = [SEX.get(one.get("person", "")) for one in said]
        kinds = [row.get("kind", "") for row in cache.rows]
        ages = [(facts.get("age", ""), kind) for facts, kind in zip(said, kinds, strict=True)]
        self.balance = Balance([sex and (kind, sex) for kind, sex in zip(kinds, sexes, strict=True)], ages)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = self.rng(index)
        row = self.balance.draw(rng)
        said = self.said[row]
        grey = bool(rng.random() < _GREY)
        if grey:
            said = greyed(said)
        crop, mesh = random_view(self.cache.crops[row], self.cache.meshes[row], rng, turn=_TURN, zoom=_ZOOM)
        chosen = sample_facts(said, rng, keep=float(rng.choice(_KEEP)))
        return {
            "pixels": to_tensor(random_look(crop, rng, grey=grey)),
            "labels": torch.from_numpy(draw_semantic_map(mesh, self.cache.size)).long(),
            "mesh": torch.from_numpy(random_mesh(mesh, self.cache.size, rng)),
            "input_ids": tokenize(self.tokenizer, [phrase(chosen)])[0],
            "facts": codes(said),
            "caption": codes(chosen),
        }


def all_facts(cache: FaceCache) -> list[dict[str, str]]:
    """``captions.facts`` of every row of a cache."""
    rows = label_glasses(cache.rows, cache.crops, cache.meshes)
    return [facts(rows[i], cache.crops[i], cache.meshes[i]) for i in range(len(cache))]


@dataclass(frozen=True)
class Questions:
    """What each face is asked beside being matched with captions: one question per fact, with a fixed set of answers.

    Attributes:
        fact: (P,) int64, the place in ``captions.FACTS`` of the fact that an answer speaks of.
        code: (P,) int64, what it says, as in ``captions.codes``.
        weight: (P,) float32, how much an answer counts: the rarer among its question's, the more.
        texts: P captions, each of which says its answer and nothing else.
    """

    fact: torch.Tensor
    code: torch.Tensor
    weight: torch.Tensor
    texts: tuple[str, ...]


def common_questions(said: Sequence[Mapping[str, str]], least: int = 20) -> Questions:
    """A question for each fact, its answers all phrases that at least that many faces share; free text asks nothing."""
    counts = Counter((name, text) for one in said for name, text in one.items() if name != "text")
    answers = sorted(answer for answer, count in counts.items() if count >= least)
    facts = torch.tensor([FACTS.index(name) for name, _ in answers], dtype=torch.long)
    code = torch.tensor([int(codes({name: text}).max()) for name, text in answers], dtype=torch.long)
    weight = torch.tensor([counts[answer] ** -0.5 for answer in answers])  # less than in proportion: few say little
    for fact in facts.unique():
        weight[facts == fact] *= 1 / weight[facts == fact].mean()
    return Questions(facts, code, weight.clamp(max=3), tuple(phrase({name: text}) for name, text in answers))


class AttributeEncoderObjective(Objective):
    """Symmetric InfoNCE of captions against the face's embedding and, lighter, each region's; and questions.

    InfoNCE as in CLIP (Radford et al., 2021), but every caption of the batch that is true of a face is a positive of it
    (UniCL's objective; Yang et al., CVPR 2022): "photo of a woman" is no negative of another woman. Beside that, each
    face is asked one question per fact, "is this a man, a woman, a boy or a girl?", and answers twice: by a linear head
    that is thrown away, because few faces teach that long before the two towers have found a common language; and by
    the captions of the answers, so that the directions between them, which later are what is kept of a face, say what
    faces show. A last term keeps the directions of different attributes at right angles, so that keeping one does not
    let another pass.
    """

    description = "Attribute encoder: a small CLIP for aligned face crops, trained from nothing."

    def __init__(
        self,
        vision: CLIPVisionModelWithProjection | FaceEncoder,
        text: CLIPTextModel | CLIPTextModelWithProjection,
        questions: Questions,
        answer_ids: torch.Tensor,
        *,
        contrast_weight: float = 0.5,
        region_weight: float = 0.1,
        overlap_weight: float = 2.0,
    ) -> None:
        """Takes the two towers and ``answer_ids``, (P, T) token ids of the questions' texts."""
        super().__init__()
        self.questions, self.answer_ids = questions, answer_ids
        self.vision, self.text = vision, text
        self.contrast_weight, self.region_weight, self.overlap_weight = contrast_weight, region_weight, overlap_weight
        self.answers = nn.Linear(vision.config.projection_dim, len(questions.fact))
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # ln(1 / 0.07), CLIP's start

    def trained(self, turn: str) -> nn.Module:
        return self

    def forward(self, batch: Mapping[str, torch.Tensor], turn: str, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        features = encode_attributes(self.vision, batch["pixels"], batch["labels"], batch["mesh"])
        scale = self.log_scale.clamp(max=4.6).exp()
        logits = scale * torch.einsum("bnd,cd->nbc", features, embed_ids(self.text, batch["input_ids"]))
        true = matching_captions(batch["facts"], batch["caption"])
        of_face, of_caption = (t / t.sum(1, keepdim=True) for t in (true.float(), true.T.float()))
        losses = [(cross_entropy(one, of_face) + cross_entropy(one.T, of_caption)) / 2 for one in logits]
        contrast = losses[0] + self.region_weight * torch.stack(losses[1:]).sum()
        answers = embed_ids(self.text, self.answer_ids.to(features.device))
        face = features[:, 0]
        answered, right = self.answer(self.answers(face * face.shape[1] ** 0.5), batch["facts"])  # components of size 1
        told, told_right = self.answer(scale * face @ answers.T, batch["facts"])
        overlap = overlap_of(answers, self.questions.fact)
        figures = {"contrast": float(contrast.detach()), "overlap": float(overlap.detach())}
        figures |= right | {f"{name}_told": share for name, share in told_right.items()}
        return self.contrast_weight * (contrast + told) + answered + self.overlap_weight * overlap, figures

    def answer(self, logits: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum of the questions' mean cross-entropies, and the share of right answers to each.

        Args:
            logits: (B, P), how well each answer fits each face.
            facts: (B, F) codes of what is known of them.
        """
        device = logits.device
        fact, code = self.questions.fact.to(device), self.questions.code.to(device)
        losses, right = [], {}
        for index, name in enumerate(FACTS):
            answers = fact == index
            true = facts[:, index : index + 1] == code[answers]
            known = true.any(1)
            if answers.sum() < 2:
                continue
            target, asked = true[known].int().argmax(1), logits[known][:, answers]
            weight = self.questions.weight.to(device)[answers]
            total = F.cross_entropy(asked, target, weight, reduction="sum")
            losses.append(_MATTERS.get(name, 1.0) * total / weight[target].sum().clamp(min=1e-6))
            right[name] = float((asked.argmax(1) == target).float().sum() / max(1, len(asked)))
        return torch.stack(losses).sum() if losses else logits.sum() * 0, right

    def save(self, folder: Path) -> None:
        self.vision.save_pretrained(folder / "image_encoder")
        self.text.save_pretrained(folder / "text_encoder")


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of (B, C) logits against (B, C) target probabilities."""
    return -(target * logits.log_softmax(1)).sum(1).mean()


def overlap_of(answers: torch.Tensor, fact: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine between the directions in which answers of different attributes differ from their mean.

    Args:
        answers: (P, D) embeddings of answers.
        fact: (P,) int64, the place in ``captions.FACTS`` of the fact that each speaks of.
    """
    attribute = torch.tensor([[FACTS[k] in names for names in ATTRIBUTES].index(True) for k in fact.tolist()])
    fact, attribute = fact.to(answers.device), attribute.to(answers.device)
    directions = torch.zeros_like(answers)
    for one in fact.unique():
        directions[fact == one] = answers[fact == one] - answers[fact == one].mean(0)
    cosines = F.normalize(directions, dim=-1) @ F.normalize(directions, dim=-1).T
    other = attribute[:, None] != attribute[None]
    return (cosines.square() * other).sum() / other.sum().clamp(min=1)
