//! File names as bytes.
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name, in bytes (NAME_MAX).
pub const NAME_MAX: usize = 255;

/// One path component: 1 to 255 bytes, any but NUL and `/`, and neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Name(Vec<u8>);

/// Why bytes are no file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, `.`, `..`, or with a NUL or a slash.
    #[error("not a file name")]
    Invalid,
    /// Longer than [`NAME_MAX`].
    #[error("file name longer than 255 bytes")]
    TooLong,
}

impl Name {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// [`NameError`] when they are no file name.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        if bytes.len() > NAME_MAX {
            return Err(NameError::TooLong);
        }
        let dots = bytes == b"." || bytes == b"..";
        if bytes.is_empty() || dots || bytes.iter().any(|&b| b == 0 || b == b'/') {
            return Err(NameError::Invalid);
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Name {
    type Error = NameError;
    fn try_from(bytes: Vec<u8>) -> Result<Self, NameError> {
        Self::new(bytes)
    }
}

impl From<Name> for Vec<u8> {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}
