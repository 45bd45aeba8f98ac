from deid_diffusion.pipelines.face_deid import FaceDeidPipeline  # noqa: F401
