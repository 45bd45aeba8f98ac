import torch

from deid_diffusion.attributes.phrases import embed_ids, embed_phrases, tokenize


def test_shared_padding_changes_no_embedding(tiny_pipeline) -> None:
    ids = tokenize(tiny_pipeline.tokenizer, ["man"])
    with torch.no_grad():
        whole = torch.nn.functional.normalize(tiny_pipeline.text_encoder(input_ids=ids).pooler_output, dim=-1)
        assert torch.allclose(embed_ids(tiny_pipeline.text_encoder, ids), whole, atol=1e-5)


def test_captions_become_unit_vectors(tiny_pipeline) -> None:
    vectors = embed_phrases(tiny_pipeline.text_encoder, tiny_pipeline.tokenizer, ["man", "woman"])
    assert vectors.shape == (2, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2))
    assert not torch.equal(vectors[0], vectors[1])
