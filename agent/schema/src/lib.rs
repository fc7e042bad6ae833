//! What the agent and the builder share.
