//! What is said on one connection: bytes come in, answers go out, and whoever holds things up is cut off. No socket and
//! no clock in here; both are told.
//!
//! The obvious loop reads a message, answers it, writes the answer and reads on, each step with a time-out of its own.
//! A client that pipelines then gets an answer per segment and round of the loop; one that sends a byte whenever the
//! time-out is about to pass holds its place for ever, and so does one that takes its answers a byte at a time. Here
//! whatever has arrived is cut into messages and answered at once, all answers leave together, and what has begun must
//! be *over* in time, however many bytes came meanwhile:
//!
//! ```text
//!             ┌ input: what is no whole message yet ┐       ┌ output: at most OUTPUT_FULL and one answer ┐
//!  bytes ───▶ │ [len][message][len][mess            │ ────▶ │ [len][answer][len][answer]…                │ ───▶ bytes
//!             └ begun_at + message_timeout ─────────┘       └ all of it within message_timeout ──────────┘
//!                          neither: active_at + the idle time-out
//! ```
//!
//! Answers take no time to compute, so they keep the order of their queries, which RFC 7766 section 7 allows. While the
//! client does not take them nothing more is read, and the kernel makes it wait.
//!
//! The machine is used as those of core are: `handle_*`, then [`Conversation::output`], [`Conversation::poll_timeout`]
//! and [`Conversation::poll_end`].

use std::time::{Duration, Instant};

/// Bytes of answers that may wait for the client before no more queries are answered: some hundred answers, a TLS record.
/// With the one that goes beyond it, 80 KiB at most; to take them within the default of 5 s, 16 kB/s suffice.
const OUTPUT_FULL: usize = 16_384;
/// Shortest message: a header (RFC 1035 section 4.1.1). What is shorter cannot even be answered with an error.
const MESSAGE_BYTES_MIN: usize = 12;
/// An empty buffer of more than this is given back: one query and one answer of the usual size.
const KEPT_BYTES: usize = 512;

/// Why a conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client has closed its side, and has every answer.
    Finished,
    /// Nothing was asked for as long as the idle time-out.
    Idle,
    /// A message was begun and not finished in time.
    SlowMessage,
    /// Answers were not taken in time.
    Unread,
    /// The length of a message that there cannot be, or a message that deserves silence: this is no DNS client.
    Malformed,
    /// It had as many queries as a connection may have.
    QueryLimit,
    /// All connections together hold as many bytes as they may, and this one more than its own part.
    NoMemory,
    /// It had been idle longest when a place was needed.
    Evicted,
    /// The other end, the network or TLS broke it off.
    Broken,
}

impl End {
    /// Whether what was answered before is still delivered.
    fn waits_for_output(self) -> bool {
        matches!(self, End::Finished | End::Malformed | End::QueryLimit)
    }
}

/// What a message is answered with.
pub(super) enum Reply {
    /// A message.
    Message(Vec<u8>),
    /// Messages one after the other, each asked for when there is room for it, until there is none; nothing else is answered
    /// in between. It gets a buffer to use.
    Series(Series),
}

/// Makes the next message of a [`Reply::Series`].
pub(super) type Series = Box<dyn FnMut(Vec<u8>) -> Option<Vec<u8>>>;

impl From<Vec<u8>> for Reply {
    fn from(message: Vec<u8>) -> Self {
        Reply::Message(message)
    }
}

/// By when the client must have taken how much.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    /// Counted as [`Conversation::queued`] is.
    bytes: u64,
}

/// One connection's conversation.
pub(super) struct Conversation {
    message_timeout: Duration,
    queries_left: u32,
    /// What has arrived and was not answered.
    input: Vec<u8>,
    /// Since when the client owes the rest of a message.
    begun_at: Option<Instant>,
    /// Whether there is no whole message in `input`.
    is_answered: bool,
    input_ended: bool,
    /// Answers, each after its length.
    output: Vec<u8>,
    /// Bytes at the head of `output` that the stream has taken.
    written: usize,
    /// Whether the stream may hold bytes that it took and has not given to the kernel yet, as TLS does.
    unflushed: bool,
    /// Bytes that were ever put into `output`, and bytes that the stream has taken of them.
    queued: u64,
    sent: u64,
    /// There while answers wait.
    due: Option<Due>,
    /// When something was last asked, or the last answer was gone.
    active_at: Instant,
    /// There while messages of one answer are still to be made.
    series: Option<Series>,
    end: Option<End>,
}

impl Conversation {
    /// A conversation that begins now, of at most `queries_max` queries (at least 1). What is begun, a message or the
    /// taking of answers, must be over within `message_timeout`.
    pub(super) fn new(queries_max: u32, message_timeout: Duration, now: Instant) -> Self {
        Conversation {
            message_timeout,
            queries_left: queries_max,
            input: Vec::new(),
            begun_at: None,
            is_answered: true,
            input_ended: false,
            output: Vec::new(),
            written: 0,
            unflushed: false,
            queued: 0,
            sent: 0,
            due: None,
            active_at: now,
            series: None,
            end: None,
        }
    }

    /// Whether bytes may be read: not while there are messages to be answered, nor while the client leaves its answers
    /// lying. So the input never holds more than the longest message and what is read at once.
    pub(super) fn wants_input(&self) -> bool {
        self.end.is_none() && !self.input_ended && self.is_answered && self.has_room()
    }

    /// Bytes have arrived. Call [`handle_messages`](Self::handle_messages) next.
    pub(super) fn handle_input(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The client has closed its side. That says no more than that it will not ask again (RFC 9293 section 3.6): it still
    /// gets the answers to what it asked before. Half a message is dropped.
    pub(super) fn handle_input_end(&mut self) {
        self.input_ended = true;
    }

    /// Answers whole messages until there is none left, or the client must take answers first. How many.
    ///
    /// `answer` gets a message, whether it is the last one that this connection may have, and a buffer to use; `None`
    /// is silence.
    pub(super) fn handle_messages<R: Into<Reply>>(
        &mut self,
        now: Instant,
        mut answer: impl FnMut(&[u8], bool, Vec<u8>) -> Option<R>,
    ) -> u32 {
        self.output.drain(..std::mem::take(&mut self.written));
        let (mut at, mut answered, mut buffer) = (0, 0, Vec::new());
        self.is_answered = false;
        while self.has_room() {
            if let Some(series) = &mut self.series {
                match series(std::mem::take(&mut buffer)) {
                    Some(bytes) => {
                        self.queued += push(&mut self.output, &bytes);
                        buffer = bytes;
                    }
                    None => self.series = None,
                }
                continue;
            }
            if self.end.is_some() {
                break;
            }
            let message = match next_message(&self.input[at..]) {
                Next::Message(message) => message,
                Next::Part => {
                    self.is_answered = true;
                    break;
                }
                Next::Nonsense => {
                    self.end = Some(End::Malformed);
                    break;
                }
            };
            at += 2 + message.len();
            self.queries_left = self.queries_left.saturating_sub(1);
            match answer(message, self.queries_left == 0, std::mem::take(&mut buffer)).map(R::into) {
                Some(Reply::Message(bytes)) => {
                    self.queued += push(&mut self.output, &bytes);
                    buffer = bytes;
                }
                Some(Reply::Series(series)) => self.series = Some(series),
                None => {
                    self.end = Some(End::Malformed);
                    break;
                }
            }
            answered += 1;
            if self.queries_left == 0 {
                self.end = Some(End::QueryLimit);
            }
        }
        self.input.drain(..at);
        self.settle(now, at > 0);
        answered
    }

    /// What is left when messages were taken from the input.
    fn settle(&mut self, now: Instant, took: bool) {
        if took {
            self.active_at = now;
        }
        if self.input_ended && self.is_answered && self.end.is_none() {
            self.end = Some(End::Finished);
        }
        if self.end.is_some() {
            self.input.clear();
        }
        // The rest of a message is owed from its first byte on; what came meanwhile does not prolong that. Nothing is owed
        // while nothing is read.
        self.begun_at = match self.begun_at {
            _ if self.input.is_empty() || !self.wants_input() => None,
            Some(earlier) if !took => Some(earlier),
            _ => Some(now),
        };
        if self.due.is_none() && self.sent < self.queued {
            self.due = Some(Due { at: now + self.message_timeout, bytes: self.queued });
        }
        release(&mut self.input);
        release(&mut self.output);
    }

    /// Answers that the stream has not taken yet.
    pub(super) fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// The stream has taken this many bytes of [`output`](Self::output).
    pub(super) fn handle_written(&mut self, bytes: usize) {
        self.written += bytes;
        self.sent += bytes as u64;
        self.unflushed = true;
        debug_assert!(self.written <= self.output.len());
    }

    /// Whether the stream must be flushed.
    pub(super) fn wants_flush(&self) -> bool {
        self.unflushed
    }

    /// The kernel has everything that the stream took.
    pub(super) fn handle_flushed(&mut self, now: Instant) {
        self.unflushed = false;
        if self.due.is_some_and(|due| self.sent >= due.bytes) {
            let is_taken = self.sent == self.queued;
            self.due = (!is_taken).then(|| Due { at: now + self.message_timeout, bytes: self.queued });
            if is_taken || self.series.is_some() {
                self.active_at = now;
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called at the latest, if a connection may be idle for
    /// `idle_timeout` now.
    pub(super) fn poll_timeout(&self, idle_timeout: Duration) -> Instant {
        let message = self.begun_at.map(|begun_at| begun_at + self.message_timeout);
        let answers = self.due.map(|due| due.at);
        message.into_iter().chain(answers).min().unwrap_or(self.active_at + idle_timeout)
    }

    /// Ends what has taken too long.
    pub(super) fn handle_timeout(&mut self, now: Instant, idle_timeout: Duration) {
        if now < self.poll_timeout(idle_timeout) {
            return;
        }
        if self.due.is_some_and(|due| due.at <= now) {
            self.end = Some(End::Unread);
        } else if self.end.is_none() {
            self.end = Some(if self.begun_at.is_some() { End::SlowMessage } else { End::Idle });
        }
    }

    /// Why it is over, once it is.
    pub(super) fn poll_end(&self) -> Option<End> {
        let is_taken = self.sent == self.queued && !self.unflushed && self.series.is_none();
        self.end.filter(|end| is_taken || !end.waits_for_output())
    }

    /// Whether an answer of several messages is under way.
    pub(super) fn is_in_series(&self) -> bool {
        self.series.is_some()
    }

    /// When something was last asked, or the last answer was gone.
    pub(super) fn active_at(&self) -> Instant {
        self.active_at
    }

    /// Bytes of memory that its buffers take.
    pub(super) fn held_bytes(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// Whether another answer may be put into the output.
    fn has_room(&self) -> bool {
        !self.unflushed && self.output().len() < OUTPUT_FULL
    }
}

/// What stands at the head of the input.
enum Next<'a> {
    Message(&'a [u8]),
    /// Nothing, or not all of a message.
    Part,
    /// A length that no message has.
    Nonsense,
}

/// RFC 1035 section 4.2.2: "The message is prefixed with a two byte length field which gives the message length,
/// excluding the two byte length field." The length may come in two segments, as RFC 7766 section 8 reminds of.
fn next_message(input: &[u8]) -> Next<'_> {
    let Some((length, rest)) = input.split_first_chunk::<2>() else { return Next::Part };
    let length = usize::from(u16::from_be_bytes(*length));
    if length < MESSAGE_BYTES_MIN {
        return Next::Nonsense;
    }
    rest.get(..length).map_or(Next::Part, Next::Message)
}

/// Appends an answer after its length; how many bytes that makes. Core bounds answers by the length field; a longer one
/// would be a fault of ours, and is left out.
fn push(output: &mut Vec<u8>, answer: &[u8]) -> u64 {
    debug_assert!(u16::try_from(answer.len()).is_ok(), "an answer of {} bytes", answer.len());
    let Ok(length) = u16::try_from(answer.len()) else { return 0 };
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(answer);
    2 + u64::from(length)
}

/// Gives the memory of an empty buffer back, unless it is hardly any.
fn release(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests;
