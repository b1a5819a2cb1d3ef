//! Padding of answers over TLS (RFC 7830), so that their length does not tell what was asked.
//!
//! TLS hides what a zone answers, but not how long the answer is, and the zone is public: whoever watches asks for all of
//! its names and compares. RFC 8467 section 4.1 has the remedy that costs least for what it hides: answers are filled up
//! to a multiple of 468 bytes, so that nearly all of a zone's are of one length or two.
//!
//! Only whoever pads its query gets that. RFC 7830 section 4: "Responders MUST pad DNS responses when the respective DNS
//! query included the 'Padding' option"; section 6: "implementations MUST NOT use this option if the DNS transport is not
//! encrypted". It is the transport's business, then, and core, which answers over all of them, knows nothing of it.

use domain::base::Message;
use domain::base::iana::OptionCode;
use domain::base::opt::{Opt, Padding};

/// What answers are filled up to a multiple of, in bytes (RFC 8467 section 4.1).
const BLOCK_BYTES: usize = 468;
/// Code and length of an option (RFC 6891 section 6.1.2).
const OPTION_HEADER: usize = 4;

/// Pads the answer to a query that has padding itself. An answer without EDNS stays as it is, and so does one that has
/// no room for an option below the 65,535 bytes of the longest message.
pub(super) fn pad(query: &[u8], answer: &mut Vec<u8>) {
    if !is_padded(query) {
        return;
    }
    let Some(options) = options_at_end(answer) else { return };
    let bare = answer.len() + OPTION_HEADER;
    let padded = bare.next_multiple_of(BLOCK_BYTES).min(usize::from(u16::MAX));
    let Some(padding) = padded.checked_sub(bare) else { return };
    let length_at = answer.len() - options - 2;
    let [length, padding_length] = [options + OPTION_HEADER + padding, padding].map(|bytes| bytes as u16);
    answer[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    answer.extend_from_slice(&OptionCode::PADDING.to_int().to_be_bytes());
    answer.extend_from_slice(&padding_length.to_be_bytes());
    // RFC 7830 section 3: "The PADDING octets SHOULD be set to 0x00".
    answer.resize(padded, 0);
}

fn is_padded(query: &[u8]) -> bool {
    let message = Message::from_slice(query).ok();
    message.and_then(Message::opt).is_some_and(|edns| edns.opt().first::<Padding<_>>().is_some())
}

/// How many bytes of options the message ends with; `None` where an OPT record is not its end.
fn options_at_end(message: &[u8]) -> Option<usize> {
    let message = Message::from_slice(message).ok()?;
    message.get_last_additional::<Opt<_>>().map(|record| record.data().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PADDED: [u8; 8] = [0, 12, 0, 4, 0, 0, 0, 0];
    const NSID: [u8; 6] = [0, 3, 0, 2, b'm', b'1'];

    /// A message with one question and an OPT record with these options behind `records` of 1,015 bytes each.
    fn message(records: u16, options: &[u8]) -> Vec<u8> {
        let mut message =
            [&[0x12, 0x34, 0, 0, 0, 1], &records.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 16, 0, 1]].concat();
        for _ in 0..records {
            message.extend([0, 0, 16, 0, 1, 0, 0, 0, 60, 0x03, 0xec]);
            message.extend([0; 1_004]);
        }
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, options.len() as u8]);
        message.extend(options);
        message
    }

    fn padded(query: &[u8], mut answer: Vec<u8>) -> Vec<u8> {
        pad(query, &mut answer);
        answer
    }

    #[test]
    fn answers_to_padded_queries_are_whole_blocks_whatever_their_length() {
        let query = message(0, &[&NSID[..], &PADDED].concat());
        for records in 0..64 {
            for options in [&[][..], &NSID] {
                let bare = message(records, options);
                let answer = padded(&query, bare.clone());
                assert_eq!(answer.len() % BLOCK_BYTES, 0, "{} bytes", bare.len());
                assert!(answer.len() - bare.len() < BLOCK_BYTES + OPTION_HEADER);
                let parsed = Message::from_slice(&answer).expect("a message");
                let edns = parsed.opt().expect("OPT");
                let padding = edns.opt().first::<Padding<_>>().expect("padding");
                assert_eq!(padding.as_slice().len(), answer.len() - bare.len() - OPTION_HEADER);
                assert!(padding.as_slice().iter().all(|byte| *byte == 0));
                let length_at = bare.len() - options.len() - 2;
                assert_eq!((&answer[..length_at], options), (&bare[..length_at], &answer[length_at + 2..bare.len()]));
            }
        }
    }

    #[test]
    fn nothing_is_padded_that_nobody_asked_to_be_or_that_has_no_edns() {
        let bare = message(1, &NSID);
        let mut without_edns = bare[..bare.len() - 11 - NSID.len()].to_vec();
        without_edns[11] = 0;
        let asking = message(0, &PADDED);
        assert_eq!(padded(&message(0, &NSID), bare.clone()), bare);
        assert_eq!(padded(&without_edns, bare.clone()), bare);
        assert_eq!(padded(&asking, without_edns.clone()), without_edns);
        for cut in 0..asking.len() {
            assert_eq!(padded(&asking[..cut], bare.clone()), bare, "a query of {cut} bytes");
            padded(&asking, asking[..cut].to_vec());
        }
    }

    #[test]
    fn the_longest_answers_are_padded_as_far_as_there_is_room() {
        let query = message(0, &PADDED);
        let of_length = |length: usize| {
            let mut answer = message(64, &[]);
            let opt = answer.split_off(answer.len() - 11);
            // A last record of whatever length is left.
            let filler = length - answer.len() - 22;
            answer.extend([0, 0, 16, 0, 1, 0, 0, 0, 60]);
            answer.extend((filler as u16).to_be_bytes());
            answer.resize(length - 11, 0);
            answer[7] += 1;
            answer.extend(opt);
            answer
        };
        for (bare, expected) in
            [(65_516, 65_520), (65_517, 65_535), (65_531, 65_535), (65_532, 65_532), (65_535, 65_535)]
        {
            let answer = padded(&query, of_length(bare));
            assert_eq!(answer.len(), expected, "{bare} bytes");
            assert!(options_at_end(&answer).is_some_and(|options| bare + options == expected));
        }
    }
}
