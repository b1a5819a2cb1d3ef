//! Who may race, how much, and what the others get.

use super::bench::{Bench, client, config, www};
use crate::dns::answer::tests::query_bytes;
use crate::master::ShardConfig;
use crate::time::Span;
use crate::wire::frame::MAX_RACED_QUERY;
use domain::base::iana::Rcode;
use domain::base::{Message, Rtype};
use std::net::{Ipv4Addr, SocketAddr};

#[test]
fn a_race_is_amended_a_limited_number_of_times() {
    let mut bench = Bench::new(config());
    bench.ask(4_000, www(0));
    let amended = (1..20).filter(|&id| bench.ask(4_000 + id, www(id)).orders.len() == 3).count();
    assert_eq!(amended, 8);
    assert_eq!(bench.count("queries_repeated_answered"), 1);
}

#[test]
fn an_unvalidated_source_gets_tc_until_it_has_used_tcp_and_again_when_that_is_long_ago() {
    let mut bench = Bench::new(ShardConfig { validated_for: Span::from_secs(10), ..config() });
    bench.shard.handle_validated(bench.now, client(1).ip());
    bench.now = bench.now + Span::from_secs(10);
    assert_eq!(bench.ask(4_000, www(1)).orders.len(), 3);
    bench.now = bench.now + Span::from_millis(1);
    let query = query_bytes("x.cdn.test", Rtype::AAAA, Some(1232));
    let heard = bench.ask(4_000, query.clone());
    assert_eq!((heard.orders.len(), heard.replies.len()), (0, 1));
    let reply = Message::from_octets(heard.replies[0].1.clone()).expect("a message");
    assert!(reply.header().tc() && reply.header_counts().ancount() == 0);
    assert!(reply.as_slice().len() <= query.len());
    bench.shard.handle_validated(bench.now, client(1).ip());
    assert_eq!(bench.ask(4_000, query).orders.len(), 3);
}

#[test]
fn answers_with_tc_to_one_prefix_are_halved_beyond_their_rate() {
    let mut bench = Bench::new(config());
    let mut answered = 0;
    for number in 0..1_000u32 {
        let source = SocketAddr::from(([198, 18, 0, number as u8], 4_000));
        bench.take(source, bench.now, &www(number as u16));
        answered += bench.heard().replies.len();
    }
    // 200 of the first second's rate, and every other one of the rest, so that a real resolver among forgers gets through.
    assert_eq!(answered, 200 + 400);
    assert_eq!(bench.count("queries_dropped_rate"), 400);
}

#[test]
fn what_is_no_query_never_races() {
    let mut bench = Bench::new(config());
    let mut response = www(7);
    response[2] |= 0x80;
    let mut update = www(7);
    update[2] = 5 << 3;
    for (bytes, code) in [
        (response, None),
        (vec![0; 11], None),
        (www(7)[..20].to_vec(), Some(Rcode::FORMERR)),
        (update, Some(Rcode::NOTIMP)),
        (query_bytes("example.org", Rtype::A, None), Some(Rcode::REFUSED)),
        (query_bytes("www.cdn.test", Rtype::TXT, None), Some(Rcode::NOERROR)),
    ] {
        let heard = bench.ask(4_000, bytes.clone());
        assert_eq!(heard.orders.len(), 0, "{bytes:?}");
        let found =
            heard.replies.first().map(|(_, reply)| Message::from_octets(reply).expect("a message").header().rcode());
        assert_eq!(found, code, "{bytes:?}");
    }
}

#[test]
fn a_source_has_a_budget_of_races_and_then_plain_answers() {
    let mut bench = Bench::new(ShardConfig { races_per_source_per_s: 5, ..config() });
    let mut raced = 0;
    for number in 0..20 {
        let heard = bench.ask(4_000, query_bytes(&format!("n{number}.cdn.test"), Rtype::AAAA, None));
        assert_eq!(heard.orders.len() / 3 + heard.replies.len(), 1, "one or the other");
        raced += heard.orders.len() / 3;
    }
    assert_eq!(raced, 5);
    assert_eq!(bench.count("answers_fallback_budget"), 15);
}

#[test]
fn a_query_too_long_for_an_order_is_answered_without_a_race() {
    let mut bench = Bench::new(config());
    let mut long = query_bytes("www.cdn.test", Rtype::A, Some(1232));
    let option_length = MAX_RACED_QUERY as u16;
    // Into the OPT record, whose data now is an empty NSID: a padding option (RFC 7830) that fills the packet.
    let rdlength = long.len() - 6;
    long[rdlength..rdlength + 2].copy_from_slice(&(4 + 4 + option_length).to_be_bytes());
    long.extend_from_slice(&[0, 12]);
    long.extend_from_slice(&option_length.to_be_bytes());
    long.resize(long.len() + usize::from(option_length), 0);
    let heard = bench.ask(4_000, long);
    assert_eq!((heard.orders.len(), heard.replies.len()), (0, 1));
    let reply = Message::from_octets(heard.replies[0].1.clone()).expect("a message");
    assert_eq!((reply.header().rcode(), reply.header_counts().ancount()), (Rcode::NOERROR, 1));
}

#[test]
fn the_table_of_races_is_bounded_and_the_rest_is_answered() {
    let mut bench = Bench::new(config());
    (2..=3).for_each(|slot| bench.shard.handle_agent_gone(slot));
    let ask = |bench: &mut Bench, number: u32| {
        bench.ask(4_000, query_bytes(&format!("n{number}.cdn.test"), Rtype::AAAA, None))
    };
    for number in 0..65_536 {
        assert_eq!(ask(&mut bench, number).orders.len(), 1, "race {number}");
    }
    let heard = ask(&mut bench, 65_536);
    assert_eq!((heard.orders.len(), heard.replies.len()), (0, 1));
    assert_eq!(bench.count("answers_fallback_table_full"), 1);
    assert_eq!(bench.wait(Span::from_secs(1)).replies.len(), 65_536, "each gets its fallback");
    assert_eq!(bench.shard.open_races(), 0);
}

#[test]
fn the_table_of_validated_sources_forgets_the_oldest() {
    let mut bench = Bench::new(config());
    for number in 0..65_536u32 {
        let source = Ipv4Addr::from_bits(0x0b00_0000 + number).into();
        bench.shard.handle_validated(bench.now + Span::from_nanos(1 + i64::from(number)), source);
    }
    let heard = bench.ask(4_000, www(7));
    assert_eq!((heard.orders.len(), heard.replies.len()), (0, 1), "the first has to validate itself again");
    bench.shard.handle_validated(bench.now + Span::from_secs(1), client(1).ip());
    assert_eq!(bench.ask(4_000, www(8)).orders.len(), 3);
}
