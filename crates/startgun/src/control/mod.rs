//! The control channel between masters and agents.

pub mod channel;
pub mod mesh_keys;
pub mod tls;

/// Why a peer was turned away or lost.
#[derive(Debug)]
pub struct Fault {
    /// The kind of it, one of a few: what [`tls::LogGate`] counts by.
    pub reason: &'static str,
    /// The whole story, for the log.
    pub text: String,
}

impl Fault {
    /// A fault of a kind of its own.
    pub fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Fault { reason, text: text.into() }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        match tls::Refusal::of(&error) {
            Some(refusal) => refusal.into(),
            None => Fault::new("connection", error.to_string()),
        }
    }
}

impl From<tls::Refusal> for Fault {
    fn from(refusal: tls::Refusal) -> Self {
        Fault::new(refusal.reason(), refusal.to_string())
    }
}

impl From<channel::ChannelError> for Fault {
    fn from(error: channel::ChannelError) -> Self {
        match error {
            channel::ChannelError::Io(error) => error.into(),
            error => Fault::new("protocol", error.to_string()),
        }
    }
}
