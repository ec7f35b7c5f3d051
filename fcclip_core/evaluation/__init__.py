"""The paper's metrics (section 4) and the evaluation loop."""
