//! Frames of opened datagrams.

use startgun_core::wire::Frame;
use startgun_core::wire::frame;

/// What was opened: what can be read of it, written again, reads the same.
///
/// # Panics
/// Where it does not.
pub fn frames(plain: &[u8]) {
    let first: Vec<Frame<'_>> = frame::frames(plain).map_while(Result::ok).collect();
    let mut encoded = Vec::new();
    for frame in &first {
        let start = encoded.len();
        frame.encode(&mut encoded);
        assert_eq!(encoded.len() - start, frame.encoded_len(), "{frame:?}");
    }
    let second: Vec<Frame<'_>> = frame::frames(&encoded).map(|frame| frame.expect("what was written")).collect();
    assert_eq!(first, second);
}
