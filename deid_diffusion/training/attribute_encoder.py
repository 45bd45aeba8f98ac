"""Training of the attribute encoder: a contrastive objective on face crops and captions."""

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
from .captions import (
    ATTRIBUTES,
    FACTS,
    describe_face,
    fact_codes,
    label_glasses,
    matching_captions,
    sample_facts,
    without_colour,
    write_caption,
)
from .data import SEX, BalancedSampler, FaceCache, FaceDataset, jitter_appearance, jitter_mesh, random_affine, to_tensor
from .generator import Objective

_KEEP = (0.15, 0.4, 0.8)  # shares of the known facts in a caption: some state one fact, some nearly all
_GREY = 0.5  # share of crops without colour: portraits lack the range of colours of everyday photos
_ROTATION, _SCALE = 0.25, 0.2  # of `random_affine`
_FACT_WEIGHTS = {"person": 3.0, "age": 3.0}  # of the facts that are hardest to learn from few faces
_CONTRAST_WEIGHT, _REGION_WEIGHT, _OVERLAP_WEIGHT = 0.5, 0.1, 2.0  # of the loss's terms
_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Sequence[str], folder: Path, *, vocab_size: int, model_max_length: int) -> CLIPTokenizer:
    """Return a byte-pair tokenizer of CLIP's kind and file layout, learned from captions and saved to ``folder``."""
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
    # as in CLIP's own vocabulary, every character can also end a word, and the special tokens come last
    vocab = json.loads((folder / "vocab.json").read_text())
    for token in [*(f"{letter}</w>" for letter in alphabet), _START, _END]:
        vocab.setdefault(token, len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "tokenizer.json").unlink(missing_ok=True)  # of an earlier run; it would override the two files
    saved = CLIPTokenizer.from_pretrained(folder, model_max_length=model_max_length)
    saved.save_pretrained(folder)
    return saved


class CaptionedFaces(FaceDataset):
    """Augmented face crops with semantic maps and random captions.

    Items: ``pixels`` (3, S, S) in -1..1, ``labels`` (S, S) int64, ``mesh`` (478, 2) crop pixels, ``input_ids`` (T,)
    int64, ``facts`` and ``caption`` (F,) int64 codes of all facts and of the caption's. Each item is a random face,
    with sexes balanced within each kind of picture, lest "photograph, not painting" become a feature of men.
    """

    def __init__(
        self, cache: FaceCache, tokenizer: CLIPTokenizer, facts: Sequence[Mapping[str, str]], seed: int
    ) -> None:
        super().__init__(cache, seed)
        self.tokenizer, self.facts = tokenizer, facts
        kinds = [row.get("kind", "") for row in cache.rows]
        sexes = [SEX.get(face.get("person", "")) for face in facts]
        groups = [sex and (kind, sex) for kind, sex in zip(kinds, sexes, strict=True)]
        ages = [(face.get("age", ""), kind) for face, kind in zip(facts, kinds, strict=True)]
        self.sampler = BalancedSampler(groups, ages)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = self.rng(index)
        row = self.sampler.draw(rng)
        facts = self.facts[row]
        grey = bool(rng.random() < _GREY)
        if grey:
            facts = without_colour(facts)
        crop, mesh = random_affine(self.cache.crops[row], self.cache.meshes[row], rng, rotation=_ROTATION, scale=_SCALE)
        caption = sample_facts(facts, rng, keep=float(rng.choice(_KEEP)))
        return {
            "pixels": to_tensor(jitter_appearance(crop, rng, grey=grey)),
            "labels": torch.from_numpy(draw_semantic_map(mesh, self.cache.size)).long(),
            "mesh": torch.from_numpy(jitter_mesh(mesh, self.cache.size, rng)),
            "input_ids": tokenize(self.tokenizer, [write_caption(caption)])[0],
            "facts": fact_codes(facts),
            "caption": fact_codes(caption),
        }


def all_facts(cache: FaceCache) -> list[dict[str, str]]:
    """Return the facts of every row of a cache, see `captions.describe_face`."""
    rows = label_glasses(cache.rows, cache.crops, cache.meshes)
    return [describe_face(rows[i], cache.crops[i], cache.meshes[i]) for i in range(len(cache))]


@dataclass(frozen=True)
class Questions:
    """Classification tasks beside the contrastive one: a question per fact, with a fixed set of answers.

    Attributes:
        fact, code: (P,) int64, of each answer: index in ``captions.FACTS``, and code as in `captions.fact_codes`.
        weight: (P,) float32, class weights: rare answers of a question weigh more.
        texts: P captions, each of which states its answer alone.
    """

    fact: torch.Tensor
    code: torch.Tensor
    weight: torch.Tensor
    texts: tuple[str, ...]


def common_questions(facts: Sequence[Mapping[str, str]], min_count: int = 20) -> Questions:
    """Return a question per fact, whose answers are the phrases of at least ``min_count`` faces; free text has none."""
    counts = Counter((name, text) for face in facts for name, text in face.items() if name != "text")
    answers = sorted(answer for answer, count in counts.items() if count >= min_count)
    fact = torch.tensor([FACTS.index(name) for name, _ in answers], dtype=torch.long)
    code = torch.tensor([int(fact_codes({name: text}).max()) for name, text in answers], dtype=torch.long)
    weight = torch.tensor([counts[answer] ** -0.5 for answer in answers])  # milder than inverse frequency
    for index in fact.unique():
        weight[fact == index] *= 1 / weight[fact == index].mean()
    return Questions(fact, code, weight.clamp(max=3), tuple(write_caption({name: text}) for name, text in answers))


class AttributeEncoderObjective(Objective):
    """Contrastive loss of captions against face and region embeddings, with auxiliary classification.

    InfoNCE as in CLIP (Radford et al., 2021), with every caption of the batch that is true of a face as a positive
    (UniCL's objective; Yang et al., CVPR 2022): "photo of a woman" is no negative of another woman. Each face also
    answers one question per fact ("a man, a woman, a boy or a girl?") twice: by a linear head, discarded after
    training, which learns long before the two encoders are aligned; and by the captions of the answers, so that the
    directions between them, along which attributes are later kept, encode visible differences. A last term makes the
    directions of different attributes orthogonal, lest keeping one attribute let another pass.
    """

    description = "Attribute encoder: a small CLIP for aligned face crops, trained from scratch."

    def __init__(
        self,
        vision: CLIPVisionModelWithProjection | FaceEncoder,
        text: CLIPTextModel | CLIPTextModelWithProjection,
        questions: Questions,
        answer_ids: torch.Tensor,
    ) -> None:
        """Take the two encoders and ``answer_ids``, (P, T) token ids of the questions' texts."""
        super().__init__()
        self.questions, self.answer_ids = questions, answer_ids
        self.vision, self.text = vision, text
        self.answers = nn.Linear(vision.config.projection_dim, len(questions.fact))
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # ln(1 / 0.07), CLIP's start

    def forward(
        self, batch: Mapping[str, torch.Tensor], phase: str, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        features = encode_attributes(self.vision, batch["pixels"], batch["labels"], batch["mesh"])
        scale = self.log_scale.clamp(max=4.6).exp()
        logits = scale * torch.einsum("bnd,cd->nbc", features, embed_ids(self.text, batch["input_ids"]))
        true = matching_captions(batch["facts"], batch["caption"])
        of_face, of_caption = (match / match.sum(1, keepdim=True) for match in (true.float(), true.T.float()))
        losses = [(F.cross_entropy(region, of_face) + F.cross_entropy(region.T, of_caption)) / 2 for region in logits]
        contrast = losses[0] + _REGION_WEIGHT * torch.stack(losses[1:]).sum()
        answers = embed_ids(self.text, self.answer_ids.to(features.device))
        face = features[:, 0]
        linear, accuracy = self.answer(self.answers(face * face.shape[1] ** 0.5), batch["facts"])  # unit variance
        zero_shot, zero_shot_accuracy = self.answer(scale * face @ answers.T, batch["facts"])
        overlap = attribute_overlap(answers, self.questions.fact)
        figures = {"contrast": float(contrast.detach()), "overlap": float(overlap.detach())}
        figures |= accuracy | {f"{name}_zero_shot": share for name, share in zero_shot_accuracy.items()}
        return _CONTRAST_WEIGHT * (contrast + zero_shot) + linear + _OVERLAP_WEIGHT * overlap, figures

    def answer(self, logits: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the sum of the questions' mean cross-entropies, and the accuracy of each.

        The logits are (B, P), of each answer for each face; the codes of the faces' facts (B, F).
        """
        device = logits.device
        fact, code = self.questions.fact.to(device), self.questions.code.to(device)
        losses, accuracy = [], {}
        for index, name in enumerate(FACTS):
            answers = fact == index
            true = facts[:, index : index + 1] == code[answers]
            known = true.any(1)
            if answers.sum() < 2:
                continue
            target, known_logits = true[known].int().argmax(1), logits[known][:, answers]
            weight = self.questions.weight.to(device)[answers]
            total = F.cross_entropy(known_logits, target, weight, reduction="sum")
            losses.append(_FACT_WEIGHTS.get(name, 1.0) * total / weight[target].sum().clamp(min=1e-6))
            accuracy[name] = float((known_logits.argmax(1) == target).float().sum() / max(1, len(target)))
        return torch.stack(losses).sum() if losses else logits.sum() * 0, accuracy

    def save(self, folder: Path) -> None:
        self.vision.save_pretrained(folder / "image_encoder")
        self.text.save_pretrained(folder / "text_encoder")


def attribute_overlap(answers: torch.Tensor, fact: torch.Tensor) -> torch.Tensor:
    """Return the mean squared cosine between answer directions of different attributes.

    A direction is the difference of an answer, a row of (P, D), from the mean of its fact's answers; facts are (P,)
    int64 indices in ``captions.FACTS``.
    """
    attribute = torch.tensor([[FACTS[k] in names for names in ATTRIBUTES].index(True) for k in fact.tolist()])
    fact, attribute = fact.to(answers.device), attribute.to(answers.device)
    directions = torch.zeros_like(answers)
    for index in fact.unique():
        directions[fact == index] = answers[fact == index] - answers[fact == index].mean(0)
    cosines = F.normalize(directions, dim=-1) @ F.normalize(directions, dim=-1).T
    other = attribute[:, None] != attribute[None]
    return (cosines.square() * other).sum() / other.sum().clamp(min=1)
