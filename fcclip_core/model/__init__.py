"""FC-CLIP as modules, one file per stage, with the names and order of the paper's Figure 3."""
