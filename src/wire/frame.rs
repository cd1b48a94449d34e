pub struct Frame;
pub struct FrameError;
pub enum FrameKind {}
