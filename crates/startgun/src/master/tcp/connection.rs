//! Moves bytes between a stream, plain or TLS, and its [`Conversation`].
//!
//! One task per connection writes and reads in the same step: a client that sends and does not read must not keep its
//! answers from being written, nor the other way round. What is read goes through a buffer that all connections share, so
//! that an idle one holds no memory but its socket's.

use super::conversation::{Conversation, End};
use super::places::Place;
use super::{Server, Transport, tally};
use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Bytes read at once: what a TLS record holds (RFC 8446 section 5.1), some 500 queries.
pub(super) const READ_BYTES: usize = 16_384;
/// How long a connection that we close waits for the client to close as well. Closed with something unread in it, the
/// kernel would send a reset, and answers on their way would be lost with it (RFC 9293 section 3.6.1).
const LINGER: Duration = Duration::from_secs(1);
/// What is read and thrown away meanwhile; who sends more is reset.
const LINGER_READS_MAX: usize = 16;

/// The buffer that all connections read into, one at a time.
pub(super) type ReadBuffer = RefCell<Box<[u8]>>;

/// Serves one connection until it ends; why it did.
pub(super) async fn serve<S>(stream: &mut S, peer: IpAddr, transport: Transport, place: &Place, server: &Server) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let end = converse(stream, peer, transport, place, server).await;
    let farewell = async {
        // What fails here has failed the client, not us.
        let _ = stream.shutdown().await;
        if matches!(end, End::Malformed | End::QueryLimit) {
            discard(stream, &server.read_buffer).await;
        }
    };
    if matches!(end, End::Finished | End::Idle | End::Malformed | End::QueryLimit) {
        tokio::select! {
            () = place.dismissed() => {}
            _ = tokio::time::timeout(LINGER, farewell) => {}
        }
    }
    end
}

async fn converse<S>(stream: &mut S, peer: IpAddr, transport: Transport, place: &Place, server: &Server) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut conversation = Conversation::new(server.queries_per_connection, server.message_timeout, Instant::now());
    let mut share = server.pool.share();
    loop {
        let answered = answer_messages(&mut conversation, peer, transport, server);
        place.keep(conversation.active_at());
        if !share.resize(conversation.held_bytes()) {
            return End::NoMemory;
        }
        let idle_timeout = server.places.idle_timeout();
        conversation.handle_timeout(Instant::now(), idle_timeout);
        if let Some(end) = conversation.poll_end() {
            return end;
        }
        if answered > 0 || conversation.is_in_series() {
            // Others have queries as well.
            tokio::task::yield_now().await;
        }
        let deadline = conversation.poll_timeout(idle_timeout);
        let step = std::future::poll_fn(|context| {
            poll_step(context, Pin::new(&mut *stream), &mut conversation, &server.read_buffer)
        });
        tokio::select! {
            biased;
            () = place.dismissed() => return End::Evicted,
            moved = step => if moved.is_err() {
                return End::Broken;
            },
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
    }
}

/// Answers what has arrived; how many messages. Whoever asks over a connection has shown that it receives what is sent to
/// its address, and may race from then on.
fn answer_messages(conversation: &mut Conversation, peer: IpAddr, transport: Transport, server: &Server) -> u32 {
    let answered = conversation.handle_messages(Instant::now(), |message, is_last, buffer| {
        server.answer(message, (peer, transport), is_last, buffer)
    });
    if answered > 0 {
        server.tally.add(tally::queries(transport), u64::from(answered));
        server.validate(peer);
    }
    answered
}

/// Writes what the stream takes and reads what it has; ready when something moved.
fn poll_step<S>(
    context: &mut Context<'_>,
    mut stream: Pin<&mut S>,
    conversation: &mut Conversation,
    read_buffer: &ReadBuffer,
) -> Poll<io::Result<()>>
where
    S: AsyncRead + AsyncWrite,
{
    let mut moved = false;
    while !conversation.output().is_empty() {
        match stream.as_mut().poll_write(context, conversation.output()) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(written) => conversation.handle_written(written?),
            Poll::Pending => break,
        }
        moved = true;
    }
    if conversation.wants_flush()
        && let Poll::Ready(flushed) = stream.as_mut().poll_flush(context)
    {
        flushed?;
        conversation.handle_flushed(Instant::now());
        moved = true;
    }
    if conversation.wants_input()
        && let Poll::Ready(read) = poll_read(context, stream, conversation, read_buffer)
    {
        read?;
        moved = true;
    }
    if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
}

fn poll_read<S: AsyncRead>(
    context: &mut Context<'_>,
    stream: Pin<&mut S>,
    conversation: &mut Conversation,
    read_buffer: &ReadBuffer,
) -> Poll<io::Result<()>> {
    let mut bytes = read_buffer.borrow_mut();
    let mut buffer = ReadBuf::new(&mut bytes);
    match ready!(stream.poll_read(context, &mut buffer)) {
        Ok(()) if buffer.filled().is_empty() => conversation.handle_input_end(),
        Ok(()) => conversation.handle_input(buffer.filled()),
        // TLS whose end is not announced (no close_notify) may have been cut. Messages carry their own length, so nothing
        // can be cut off unseen.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => conversation.handle_input_end(),
        Err(error) => return Poll::Ready(Err(error)),
    }
    Poll::Ready(Ok(()))
}

/// Reads and forgets until the client closes its side.
async fn discard<S: AsyncRead + Unpin>(stream: &mut S, read_buffer: &ReadBuffer) {
    for _ in 0..LINGER_READS_MAX {
        let read = std::future::poll_fn(|context| {
            let mut bytes = read_buffer.borrow_mut();
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
            Poll::Ready(io::Result::Ok(buffer.filled().len()))
        });
        if !matches!(read.await, Ok(1..)) {
            return;
        }
    }
}
