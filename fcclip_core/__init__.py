"""Open-vocabulary panoptic segmentation with FC-CLIP; needs no ROS."""

from fcclip_core.checkpoints import load_checkpoint
from fcclip_core.results import Instances, PanopticResult, Prediction, Segment
from fcclip_core.segmenter import Segmenter
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary import Vocabulary

__all__ = [
    "InferenceSettings",
    "Instances",
    "PanopticResult",
    "Prediction",
    "Segment",
    "Segmenter",
    "Vocabulary",
    "load_checkpoint",
]
