"""FC-CLIP as modules, one file a stage, named and ordered as the paper draws them (Figure 3)."""
