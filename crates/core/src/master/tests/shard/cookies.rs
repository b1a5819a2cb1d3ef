//! Cookies, response rates and even delays.

use super::bench::{Bench, DELAY, config, www};
use crate::dns::answer::tests::query_bytes;
use crate::dns::cookie::CookieSecrets;
use crate::master::ShardConfig;
use crate::time::Span;
use domain::base::iana::{OptRcode, Rcode};
use domain::base::opt::cookie::Cookie;
use domain::base::{Message, Rtype};
use std::net::SocketAddr;

/// Well after 1970, so that no cookie is older than its time.
const UNIX_NS: i64 = 1_795_000_000_000_000_000;

fn with_cookie(mut query: Vec<u8>, cookie: &[u8]) -> Vec<u8> {
    // Into the OPT record, whose data is an empty NSID: 4 bytes.
    let rdlength = query.len() - 6;
    query[rdlength..rdlength + 2].copy_from_slice(&(4 + 4 + cookie.len() as u16).to_be_bytes());
    query.extend_from_slice(&[0, 10, 0, cookie.len() as u8]);
    query.extend_from_slice(cookie);
    query
}

fn bench(config: ShardConfig) -> Bench {
    let mut bench = Bench::new(ShardConfig { cookies: CookieSecrets::new([[9; 16]]), ..config });
    bench.shard.handle_wall_clock(bench.now, UNIX_NS);
    bench
}

/// Code and COOKIE option of an answer.
fn told(reply: &[u8]) -> (OptRcode, Option<Cookie>) {
    let message = Message::from_octets(reply).expect("a message");
    (message.opt_rcode(), message.opt().and_then(|opt| opt.opt().cookie()))
}

fn bytes_of(cookie: &Cookie) -> Vec<u8> {
    [cookie.client().into_octets().as_slice(), cookie.server().expect("a server cookie").as_ref()].concat()
}

#[test]
fn a_stranger_with_a_cookie_is_given_another_to_come_back_with_and_races_then() {
    let mut bench = bench(config());
    let stranger = SocketAddr::from(([198, 18, 7, 7], 4_000));
    bench.take(stranger, bench.now, &with_cookie(www(7), &[5; 8]));
    let heard = bench.heard();
    assert_eq!((heard.orders.len(), heard.replies.len()), (0, 1));
    let (code, cookie) = told(&heard.replies[0].1);
    assert_eq!(code, OptRcode::BADCOOKIE);
    let full = bytes_of(&cookie.expect("a cookie"));
    assert_eq!(full.len(), 24);
    bench.take(stranger, bench.now, &with_cookie(www(8), &full));
    let heard = bench.heard();
    assert_eq!((heard.orders.len(), heard.replies.len()), (3, 0));
    assert_eq!(heard.cookies, [Some(full[8..].try_into().expect("16 bytes")); 3], "agents return what the master made");
    // From another address the same cookie is worth nothing.
    bench.take(SocketAddr::from(([198, 18, 7, 8], 4_000)), bench.now, &with_cookie(www(9), &full));
    assert_eq!(told(&bench.heard().replies[0].1).0, OptRcode::BADCOOKIE);
    assert_eq!((bench.count("queries_with_valid_cookie"), bench.count("answers_bad_cookie")), (1, 2));
}

#[test]
fn without_secrets_or_a_clock_cookies_are_not_answered_and_prove_nothing() {
    for secrets in [true, false] {
        let cookies = if secrets { CookieSecrets::new([[9; 16]]) } else { CookieSecrets::default() };
        let mut bench = Bench::new(ShardConfig { cookies, ..config() });
        if !secrets {
            bench.shard.handle_wall_clock(bench.now, UNIX_NS);
        }
        bench.take(SocketAddr::from(([198, 18, 7, 7], 4_000)), bench.now, &with_cookie(www(7), &[5; 8]));
        let heard = bench.heard();
        let (code, cookie) = told(&heard.replies[0].1);
        assert_eq!((code, cookie), (OptRcode::NOERROR, None));
        assert!(Message::from_octets(&heard.replies[0].1).expect("a message").header().tc());
    }
}

#[test]
fn fallbacks_and_central_answers_return_a_cookie_too() {
    let mut bench = bench(config());
    (1..=3).for_each(|slot| bench.shard.handle_agent_gone(slot));
    for name in ["www.cdn.test", "ns.cdn.test", "nothing.ns.cdn.test"] {
        let query = query_bytes(name, Rtype::A, Some(1232));
        let heard = bench.ask(4_000, with_cookie(query, &[5; 8]));
        let (_, cookie) = told(&heard.replies[0].1);
        let full = bytes_of(&cookie.expect("a cookie"));
        let again = bench.ask(4_001, with_cookie(query_bytes(name, Rtype::A, Some(1232)), &full));
        assert_eq!(told(&again.replies[0].1).1.map(|cookie| bytes_of(&cookie)), Some(full), "{name}: still young");
    }
    assert_eq!(bench.count("queries_with_valid_cookie"), 3);
}

#[test]
fn beyond_the_rate_strangers_get_every_second_answer_empty_and_cookie_holders_all() {
    let mut bench = bench(ShardConfig { responses_per_prefix_per_s: 10, slip: 2, ..config() });
    let plain = query_bytes("ns.cdn.test", Rtype::A, Some(1232));
    let (mut full, mut truncated) = (0, 0);
    for _ in 0..110 {
        for (_, reply) in bench.ask(4_000, plain.clone()).replies {
            let is_truncated = Message::from_octets(&reply).expect("a message").header().tc();
            assert!(!is_truncated || reply.len() <= plain.len());
            *if is_truncated { &mut truncated } else { &mut full } += 1;
        }
    }
    assert_eq!((full, truncated, bench.count("queries_dropped_rate")), (10, 50, 50));
    bench.now = bench.now + Span::from_secs(1);
    let first = bench.ask(4_000, with_cookie(plain.clone(), &[5; 8]));
    let cookie = bytes_of(&told(&first.replies[0].1).1.expect("a cookie"));
    let all = (0..100).filter(|_| !bench.ask(4_000, with_cookie(plain.clone(), &cookie)).replies.is_empty()).count();
    assert_eq!(all, 100);
    let mut silent = self::bench(ShardConfig { responses_per_prefix_per_s: 10, slip: 0, ..config() });
    assert_eq!((0..30).filter(|_| !silent.ask(4_000, plain.clone()).replies.is_empty()).count(), 10);
}

#[test]
fn central_answers_are_held_for_as_long_as_a_race_takes() {
    let mut bench = Bench::new(ShardConfig { even_delay: vec![0], ..config() });
    let plain = query_bytes("ns.cdn.test", Rtype::A, Some(1232));
    assert!(bench.ask(4_000, plain.clone()).replies.is_empty());
    let due = bench.shard.poll_timeout().expect("a timer").0;
    assert_eq!(due, bench.now + DELAY);
    assert!(bench.wait(DELAY - Span::from_nanos(1)).replies.is_empty());
    let heard = bench.wait(Span::from_nanos(1));
    assert_eq!(heard.replies.len(), 1);
    assert_eq!(Message::from_octets(&heard.replies[0].1).expect("a message").header().rcode(), Rcode::NOERROR);
    // Without races there is nothing to be even with.
    (1..=3).for_each(|slot| bench.shard.handle_agent_gone(slot));
    assert_eq!(bench.ask(4_000, plain).replies.len(), 1);
}

#[test]
fn answers_that_are_held_are_bounded_and_the_rest_leaves_at_once() {
    let mut bench = Bench::new(ShardConfig { even_delay: vec![0], ..config() });
    let plain = query_bytes("ns.cdn.test", Rtype::A, None);
    let at_once: usize = (0..17_000).map(|_| bench.ask(4_000, plain.clone()).replies.len()).sum();
    assert_eq!(at_once, 17_000 - 16_384);
    assert_eq!(bench.wait(DELAY).replies.len(), 16_384);
}
