//! Documents on a stream: each is JSON after its length in four bytes, big-endian.

use serde::Serialize;
use serde::de::DeserializeOwned;
use startgun_core::control::MAX_MESSAGE;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A peer that does not take a document within this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the channel ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The stream failed.
    #[error("control channel: {0}")]
    Io(#[from] io::Error),
    /// A document is longer than [`MAX_MESSAGE`].
    #[error("control channel: a document of {found} bytes, at most {MAX_MESSAGE}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// A document is not what this version understands.
    #[error("control channel: not a document of this protocol: {0}")]
    Malformed(serde_json::Error),
}

/// Reads and writes documents.
#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    received: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    /// A channel over `stream`.
    pub fn new(stream: S) -> Self {
        Channel { stream, received: Vec::new() }
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The next document; `None` when the peer closed the stream between two. May be cancelled at any time.
    ///
    /// # Errors
    /// See [`ChannelError`]; the channel is then of no more use.
    pub async fn read<M: DeserializeOwned>(&mut self) -> Result<Option<M>, ChannelError> {
        loop {
            if let Some((length, rest)) = self.received.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > MAX_MESSAGE {
                    return Err(ChannelError::TooLong { found: length });
                }
                if let Some(document) = rest.get(..length) {
                    let document = serde_json::from_slice(document).map_err(ChannelError::Malformed)?;
                    self.received.drain(..4 + length);
                    return Ok(Some(document));
                }
            }
            let read = match self.stream.read_buf(&mut self.received).await {
                // A peer that was killed sends no close_notify. Documents carry their length, so nothing can be cut short
                // unnoticed, and between two of them an end is an end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                read => read?,
            };
            if read == 0 {
                return match self.received.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                };
            }
        }
    }

    /// Writes a document. Must not be cancelled.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn write<M: Serialize>(&mut self, document: &M) -> Result<(), ChannelError> {
        let json = serde_json::to_vec(document).map_err(ChannelError::Malformed)?;
        if json.len() > MAX_MESSAGE {
            return Err(ChannelError::TooLong { found: json.len() });
        }
        let mut bytes = Vec::with_capacity(4 + json.len());
        bytes.extend_from_slice(&(json.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&json);
        let written = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(WRITE_TIMEOUT, written).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn documents_arrive_whole_and_in_order() {
        let (near, far) = tokio::io::duplex(7);
        let sender = tokio::spawn(async move {
            let mut channel = Channel::new(near);
            for i in 0..20u32 {
                channel.write(&vec![i; i as usize]).await.expect("written");
            }
        });
        let mut channel = Channel::new(far);
        for i in 0..20u32 {
            assert_eq!(channel.read::<Vec<u32>>().await.expect("read"), Some(vec![i; i as usize]));
        }
        sender.await.expect("no panic");
        assert_eq!(channel.read::<Vec<u32>>().await.expect("end"), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn long_malformed_and_cut_documents_are_errors() {
        for (bytes, expected) in [
            (vec![0xff; 4], "at most"),
            (b"\0\0\0\x02xx".to_vec(), "not a document"),
            (b"\0\0\0\x09{".to_vec(), "control channel"),
        ] {
            let (mut near, far) = tokio::io::duplex(64);
            near.write_all(&bytes).await.expect("written");
            drop(near);
            let error = Channel::new(far).read::<u32>().await.expect_err("refused");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
