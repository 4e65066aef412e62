//! placeholder
use super::*;
#[derive(Debug)]
pub struct Http;
#[derive(Debug)]
pub struct Options;
#[derive(Debug)]
pub struct BuildError;
impl Http {
    pub fn new(_: Options, _: &Policy) -> Result<Self, BuildError> {
        Err(BuildError)
    }
    pub async fn attempt(&self, _: Parcel<'_>, _: &Policy) -> Outcome {
        Outcome::Delivered
    }
}
