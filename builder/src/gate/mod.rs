//! The gate as the builder sees it: the checks of kiln.yaml on their way to the instance, the report on its
//! way to CI, and the gate of an image without a bake.
//!
//! The gate itself is the agent's (`kiln-agent gate`); there is one, wherever it runs.
//!
//! - `render`: checks to a test file.
//! - `junit`: the report to what CI systems read.
//! - `local`: the gate in a machine of the lab.

pub mod junit;
pub mod local;
pub mod render;
