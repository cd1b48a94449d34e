//! tmp
#[derive(Debug)]
pub enum Error {
    Unsupported { path: String, feature: String },
    Other(String),
}
impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
