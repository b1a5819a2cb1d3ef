//! Conversations in virtual time, byte by byte.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(10);

/// A client and a stream that takes as many bytes as it is told to, in virtual time.
struct Rig {
    conversation: Conversation,
    start: Instant,
    now: Instant,
    /// What the client has received.
    received: Vec<u8>,
    /// Messages that were asked for, and whether each was the last.
    asked: Vec<(Vec<u8>, bool)>,
}

impl Rig {
    fn new(queries_max: u32) -> Self {
        let start = Instant::now();
        let conversation = Conversation::new(queries_max, TIMEOUT, start);
        Rig { conversation, start, now: start, received: Vec::new(), asked: Vec::new() }
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        self.now = self.start + Duration::from_millis(ms);
        self
    }

    /// Bytes arrive, and what is answered is put into the output.
    fn send(&mut self, bytes: &[u8]) -> u32 {
        if !bytes.is_empty() {
            assert!(self.conversation.wants_input(), "bytes that nobody wants");
            self.conversation.handle_input(bytes);
        }
        let asked = &mut self.asked;
        self.conversation.handle_messages(self.now, |message, is_last, buffer| {
            asked.push((message.to_vec(), is_last));
            match message[0] {
                b'z' => Some(series(message[1])),
                _ => answer(message, buffer).map(Reply::Message),
            }
        })
    }

    /// The stream takes up to `most` bytes, and the client has them at once.
    fn take(&mut self, most: usize) -> usize {
        let output = self.conversation.output();
        let taken = most.min(output.len());
        self.received.extend_from_slice(&output[..taken]);
        if taken > 0 {
            self.conversation.handle_written(taken);
            self.conversation.handle_flushed(self.now);
        }
        taken
    }

    fn end(&mut self) -> Option<End> {
        self.conversation.handle_timeout(self.now, IDLE);
        self.conversation.poll_end()
    }

    fn timeout_ms(&self) -> u64 {
        let timeout = self.conversation.poll_timeout(IDLE) - self.start;
        u64::try_from(timeout.as_millis()).expect("within a test")
    }
}

/// A message whose first byte is `s` deserves silence; one of `b` gets 40,000 bytes; others are repeated.
fn answer(message: &[u8], mut buffer: Vec<u8>) -> Option<Vec<u8>> {
    buffer.clear();
    match message[0] {
        b's' => return None,
        b'b' => buffer.resize(40_000, b'B'),
        _ => buffer.extend_from_slice(message),
    }
    Some(buffer)
}

/// So many messages of 16,000 bytes, the first full of 0, the next of 1.
fn series(count: u8) -> Reply {
    let mut left = 0..count;
    Reply::Series(Box::new(move |mut buffer| {
        buffer.clear();
        left.next().map(|number| {
            buffer.resize(16_000, number);
            buffer
        })
    }))
}

/// A message of `length` bytes that begins with `first`, after its length.
fn framed(first: u8, length: usize) -> Vec<u8> {
    let mut bytes = u16::try_from(length).expect("a message's length").to_be_bytes().to_vec();
    bytes.push(first);
    bytes.resize(2 + length, b'.');
    bytes
}

#[test]
fn what_arrives_together_is_answered_together_and_in_order() {
    let mut rig = Rig::new(1_000);
    let all: Vec<u8> = (0..100).flat_map(|number| framed(number % 50, 12 + usize::from(number))).collect();
    assert_eq!(rig.send(&all), 100);
    assert_eq!(rig.conversation.output(), all, "one write for all of them");
    rig.take(usize::MAX);
    assert_eq!(rig.received, all);
    assert_eq!(rig.end(), None);
}

#[test]
fn a_message_may_come_in_any_pieces() {
    let messages = [framed(b'1', 12), framed(b'2', 300), framed(b'3', 65_535), framed(b'4', 13)].concat();
    for size in [1, 2, 3, 13, 314, 16_384, 66_000] {
        let mut rig = Rig::new(1_000);
        let mut answered = 0;
        for piece in messages.chunks(size) {
            answered += rig.send(piece);
            rig.take(usize::MAX);
            answered += rig.send(b"");
            rig.take(usize::MAX);
        }
        assert_eq!(answered, 4, "pieces of {size} bytes");
        assert!(rig.received == messages, "pieces of {size} bytes");
        rig.send(b"");
        assert!(rig.conversation.held_bytes() <= 2 * KEPT_BYTES, "what is not needed any more is given back");
    }
}

#[test]
fn a_begun_message_is_owed_from_its_first_byte_on() {
    let mut rig = Rig::new(1_000);
    assert_eq!(rig.timeout_ms(), 10_000);
    rig.at(1_000).send(&[0]);
    assert_eq!(rig.timeout_ms(), 6_000);
    for (number, ms) in (1_100..6_000).step_by(100).enumerate() {
        rig.at(ms).send(if number == 0 { &[100] } else { b"." });
        assert_eq!((rig.end(), rig.timeout_ms()), (None, 6_000));
    }
    assert_eq!(rig.at(6_000).end(), Some(End::SlowMessage));
    assert!(!rig.conversation.wants_input());
}

#[test]
fn the_next_message_has_a_time_of_its_own() {
    let mut rig = Rig::new(1_000);
    let (first, second) = (framed(b'1', 20), framed(b'2', 20));
    rig.at(1_000).send(&first[..10]);
    // The end of one with the beginning of the next.
    assert_eq!(rig.at(3_000).send(&[&first[10..], &second[..1]].concat()), 1);
    rig.take(usize::MAX);
    assert_eq!(rig.timeout_ms(), 8_000);
    assert_eq!(rig.at(7_999).send(&second[1..]), 1);
    rig.take(usize::MAX);
    assert_eq!((rig.end(), rig.timeout_ms()), (None, 17_999));
    assert_eq!(rig.at(17_999).end(), Some(End::Idle));
}

#[test]
fn a_client_that_does_not_take_its_answers_is_asked_nothing_more_and_cut_off() {
    let mut rig = Rig::new(1_000);
    let queries = framed(b'b', 12).repeat(10);
    assert_eq!(rig.send(&queries), 1, "one such answer fills the output");
    assert!(!rig.conversation.wants_input());
    assert_eq!(rig.conversation.output().len(), 40_002);
    assert!(rig.conversation.held_bytes() <= 5 * OUTPUT_FULL, "{}", rig.conversation.held_bytes());
    // It takes a little now and then, which does not help it.
    for ms in (500..5_000).step_by(500) {
        rig.at(ms).take(100);
        assert_eq!((rig.send(b""), rig.end(), rig.timeout_ms()), (0, None, 5_000));
    }
    assert_eq!(rig.at(5_000).end(), Some(End::Unread));
}

#[test]
fn nothing_more_is_read_while_messages_wait() {
    let mut rig = Rig::new(10_000);
    let mut answered = rig.send(&framed(b'1', 20).repeat(1_000));
    assert!(answered < 1_000);
    while answered < 1_000 {
        rig.take(usize::MAX);
        assert!(!rig.conversation.wants_input(), "after {answered}");
        answered += rig.send(b"");
    }
    rig.take(usize::MAX);
    assert!(rig.conversation.wants_input());
    assert_eq!(rig.timeout_ms(), 10_000);
}

#[test]
fn having_taken_some_answers_gives_no_more_than_the_same_time_for_the_next() {
    let mut rig = Rig::new(1_000);
    rig.send(&framed(b'1', 20));
    rig.at(1_000).send(&framed(b'b', 12));
    assert_eq!(rig.timeout_ms(), 5_000, "for the first");
    rig.at(2_000).take(22);
    for ms in (2_500..7_000).step_by(500) {
        rig.at(ms).take(100);
        assert_eq!((rig.send(b""), rig.end(), rig.timeout_ms()), (0, None, 7_000));
    }
    assert_eq!(rig.at(7_000).end(), Some(End::Unread));
}

#[test]
fn a_client_that_takes_its_answers_in_time_gets_all_of_them_however_long_that_takes() {
    let mut rig = Rig::new(1_000);
    let mut answered = rig.send(&framed(b'b', 12).repeat(100));
    // 10 kB a second: an answer takes four seconds.
    let mut ms = 0;
    while answered < 100 {
        ms += 1_000;
        rig.at(ms).take(10_000);
        answered += rig.send(b"");
        assert_eq!(rig.end(), None, "at {ms} ms");
    }
    assert!(ms > 300_000, "{ms} ms for 4 MB");
    while rig.take(10_000) > 0 {}
    assert_eq!(rig.received.len(), 100 * 40_002);
}

#[test]
fn answers_have_left_only_when_the_stream_has_been_flushed() {
    let mut rig = Rig::new(1_000);
    rig.send(&framed(b'1', 20));
    let length = rig.conversation.output().len();
    rig.conversation.handle_written(length);
    // TLS has them, the kernel has not.
    assert!(rig.conversation.wants_flush() && !rig.conversation.wants_input());
    assert_eq!(rig.timeout_ms(), 5_000);
    assert_eq!(rig.at(5_000).end(), Some(End::Unread));
}

#[test]
fn who_closes_its_side_still_gets_its_answers() {
    let mut rig = Rig::new(1_000);
    rig.send(&[&framed(b'b', 12).repeat(3)[..], &framed(b'1', 30)[..7]].concat());
    rig.conversation.handle_input_end();
    assert_eq!((rig.send(b""), rig.end()), (0, None), "the output is full");
    let mut answered = 1;
    while rig.end().is_none() {
        rig.take(30_000);
        answered += rig.send(b"");
    }
    assert_eq!((answered, rig.received.len()), (3, 3 * 40_002));
    assert_eq!(rig.end(), Some(End::Finished));
    let mut silent = Rig::new(1_000);
    silent.conversation.handle_input_end();
    silent.send(b"");
    assert_eq!(silent.end(), Some(End::Finished));
}

#[test]
fn nonsense_ends_it_after_the_earlier_answers() {
    for nonsense in [vec![0, 0], vec![0, 11], framed(b's', 40)] {
        let mut rig = Rig::new(1_000);
        let good = framed(b'1', 20);
        assert_eq!(rig.send(&[&good[..], &nonsense, &good].concat()), 1);
        assert_eq!(rig.end(), None);
        assert!(!rig.conversation.wants_input());
        rig.take(usize::MAX);
        assert_eq!((rig.end(), rig.received), (Some(End::Malformed), good));
    }
    // Nothing of it must arrive before it is known to be nonsense.
    let mut rig = Rig::new(1_000);
    rig.send(&[0, 11]);
    assert_eq!(rig.end(), Some(End::Malformed));
}

#[test]
fn the_last_query_is_known_as_such_and_what_follows_is_not_answered() {
    let mut rig = Rig::new(3);
    assert_eq!(rig.send(&framed(b'1', 20).repeat(5)), 3);
    let last: Vec<bool> = rig.asked.iter().map(|(_, is_last)| *is_last).collect();
    assert_eq!(last, [false, false, true]);
    assert_eq!(rig.end(), None);
    rig.take(usize::MAX);
    assert_eq!((rig.end(), rig.received.len()), (Some(End::QueryLimit), 3 * 22));
}

#[test]
fn any_bytes_in_any_pieces_leave_it_within_its_bounds() {
    // A generator of SplitMix64: what it yields is as good as any other bytes, and the same every time.
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    for _ in 0..300 {
        let mut rig = Rig::new(200);
        let mut ms = 0;
        while rig.end().is_none() && ms < 100_000 {
            ms += random() % 700;
            rig.at(ms);
            if rig.conversation.wants_input() {
                let length = random() % 3_000;
                // Short lengths, so that messages are often complete.
                let bytes: Vec<u8> = (0..length).map(|at| if at % 40 == 0 { 0 } else { random() as u8 % 40 }).collect();
                rig.send(&bytes);
            }
            rig.take((random() % 2_000) as usize);
            rig.send(b"");
            assert!(rig.conversation.held_bytes() <= 16 * OUTPUT_FULL);
        }
        assert!(rig.asked.len() <= 200);
        let mut expected = Vec::new();
        for bytes in rig.asked.iter().filter_map(|(message, _)| answer(message, Vec::new())) {
            push(&mut expected, &bytes);
        }
        assert!(expected.starts_with(&rig.received), "what was received is what was answered, in order");
    }
}

#[test]
fn an_answer_of_many_messages_is_made_as_it_is_taken() {
    let mut rig = Rig::new(2);
    let mut asks = framed(b'z', 20);
    asks[3] = 20;
    let other = framed(b'1', 20);
    assert_eq!(rig.send(&[asks.clone(), other.clone()].concat()), 1);
    assert!(rig.conversation.is_in_series() && !rig.conversation.wants_input());
    let mut most = 0;
    let mut others = 0;
    while others == 0 {
        assert_eq!(rig.end(), None, "the last query was asked, and is not answered yet");
        most = most.max(rig.conversation.held_bytes());
        rig.take(7_000);
        others = rig.send(b"");
    }
    while rig.take(usize::MAX) > 0 {}
    assert!(most < 100_000, "{most} bytes held");
    let expected: Vec<u8> = (0..20).flat_map(|number| [&[0x3e, 0x80][..], &[number; 16_000]].concat()).collect();
    assert!(rig.received == [expected, other].concat(), "{} bytes in order", rig.received.len());
    assert_eq!(rig.end(), Some(End::QueryLimit));
}

#[test]
fn who_does_not_take_a_long_answer_is_cut_off() {
    let mut rig = Rig::new(10);
    let mut asks = framed(b'z', 20);
    asks[3] = 200;
    rig.send(&asks);
    for second in 1..20 {
        rig.at(second * 1_000).take(10_000);
        rig.send(b"");
        assert_eq!(rig.end(), None, "10 kB a second suffice");
    }
    assert_eq!(rig.at(30_000).end(), Some(End::Unread));
}
