//! What Plane is developed with: the test harness, the demo image and the local cluster. Nothing imports this.

pub mod bench;
pub mod harness;
pub mod image;
pub mod sim;
