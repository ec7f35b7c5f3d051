"""FC-CLIP's inference in the published order of operations, written plainly: oracle of the tests, benchmarks' baseline.

It works on a dictionary of tensors under the published checkpoints' names and shares no code with `fcclip_core.model`.
Every prediction head runs in full after every decoder layer, every mask is enlarged twice, and segments are merged one
by one: slow where the published order is slow, and nowhere else.
"""
