//! What is said about faulty files, word for word.

use std::fmt::Write as _;

use super::{AGENT, MASTER, said};

/// Applies each case's replacement to the sound text and compares all that is said.
fn assert_said(sound: &str, cases: &[(&str, &str, &str)]) {
    let mut wrong = String::new();
    for (from, to, expected) in cases {
        assert_eq!(sound.matches(from).count(), 1, "{from:?} must be in the sound text once");
        let found = said(&sound.replace(from, to));
        if found != *expected {
            let _ = write!(wrong, "\n{from:?} → {to:?}\n--- expected\n{expected}\n--- found\n{found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn faulty_masters_are_refused_in_these_words() {
    let cases = [
        (r#"role = "master""#, "", r#"f.toml:1:1: role: found nothing, expected "master" or "agent""#),
        (
            r#"role = "master""#,
            r#"role = "server""#,
            r#"f.toml:1:8: role: found "server", expected "master" or "agent""#,
        ),
        (
            "\"m1\"\nc",
            "\"M1\"\nc",
            r#"f.toml:2:8: name: found "M1", expected 1 to 63 of a-z, 0-9 and -, starting with a letter"#,
        ),
        (
            r#"name = "m1""#,
            "name = m1",
            "f.toml:2:8: found a fault of syntax (string values must be quoted), expected literal string",
        ),
        (
            r#"name = "m1""#,
            "name = \"m1\nx",
            r#"f.toml:2:11: found a fault of syntax (invalid basic string), expected `"`
f.toml:3:2: found a fault of syntax (key with no value), expected `=`"#,
        ),
        (
            "control_listen",
            "control_lisen",
            r#"f.toml:1:1: control_listen: found nothing, expected an IP address and a port from 1, such as "198.51.100.1:8530" or "[2001:db8::1]:8530"
f.toml:3:1: control_lisen: found an unknown key, expected control_listen"#,
        ),
        (
            r#"name = "m1""#,
            "name = \"m1\"\nname = \"m2\"",
            "f.toml:3:1: found a fault of syntax (duplicate key), expected TOML",
        ),
        (
            r#""198.51.100.1:8531""#,
            r#""0.0.0.0:8531""#,
            r#"f.toml:4:20: fast_path_listen: found "0.0.0.0:8531", expected one exact address: agents are told to send to it"#,
        ),
        (
            r#""198.51.100.1:8530""#,
            r#""198.51.100.1""#,
            r#"f.toml:3:18: control_listen: found "198.51.100.1", expected an IP address and a port from 1, such as "198.51.100.1:8530" or "[2001:db8::1]:8530""#,
        ),
        (
            "[[service]]",
            "[clock]\nsource = \"host\"\n\n[[service]]",
            "f.toml:12:1: clock.source: found an unknown key, expected one of clock_bound_path, host_bound_ms, host_source, phc_device, phc_minus_utc_s",
        ),
        (
            r#""198.51.100.1:8530""#,
            "8530",
            r#"f.toml:3:18: control_listen: found 8530, expected an IP address and a port from 1, such as "198.51.100.1:8530" or "[2001:db8::1]:8530""#,
        ),
        (
            "\n\n[fleet]",
            "\nshards = 65\n[fleet]",
            "f.toml:5:10: shards: found 65, expected threads, 0 for one per core, a whole number from 0 to 64",
        ),
        (
            "\n\n[fleet]",
            "\nqueue_capacity = 1.5\n[fleet]",
            "f.toml:5:18: queue_capacity: found 1.5, expected queries, a whole number from 1 to 1048576",
        ),
        (
            "\n\n[fleet]",
            "\nstamp = \"later\"\n[fleet]",
            r#"f.toml:5:9: stamp: found "later", expected "receipt" or "dequeue""#,
        ),
        (
            "\n\n[fleet]",
            "\nfallback_after_ms = nan\n[fleet]",
            "f.toml:5:21: fallback_after_ms: found nan, expected milliseconds, a number from 1 to 5000",
        ),
        (
            "\n\n[fleet]",
            "\nhttp_listen = \"0.0.0.0:8530\"\n[fleet]",
            r#"f.toml:5:15: http_listen: found "0.0.0.0:8530", expected an address and port that control_listen does not take as well"#,
        ),
        (
            "\n\n[fleet]",
            "\nbanana = 1\n[fleet]",
            "f.toml:5:1: banana: found an unknown key, expected one of clock, clock_distortion, control_listen, cookies, fallback_after_ms, fast_path_listen, fleet, http_listen, max_total_delay_ms, name, queue_capacity, race, races_per_source_per_s, rate_limit, role, self_test_listen, service, shards, stamp, state_dir, status_socket, tcp, tls, tsig_key, user, validated_for_s, zone",
        ),
        ("\n\n[fleet]", "\nclock_distortion = 1\n[fleet]", "f.toml:5:20: clock_distortion: found 1, expected a table"),
        ("ca = \"ca.crt\"\n", "", "f.toml:6:1: fleet.ca: found nothing, expected the path of the fleet's ca.crt"),
        (r#"key = "m1.key""#, r#"key = """#, r#"f.toml:9:7: fleet.key: found "", expected a path"#),
        (
            "203.0.113.53:53",
            "0.0.0.0:53",
            r#"f.toml:12:11: service[0].address: found "0.0.0.0:53", expected one exact address: the service address is what the resolver asked, and agents answer from it"#,
        ),
        (
            "\n\n[[zone]]",
            "\n[[service]]\naddress = \"203.0.113.53:53\"\n[[zone]]",
            r#"f.toml:14:11: service[1].address: found "203.0.113.53:53", expected an address and port that service[0].address does not take as well"#,
        ),
        (
            "[[service]]\naddress = \"203.0.113.53:53\"",
            "",
            "f.toml:1:1: service: found nothing, expected at least one [[service]] with the address that resolvers ask",
        ),
        (
            "[[service]]",
            "[tcp]\nmax_connections = 0\nmax_queries_per_connection = 1.5\nidle_timeout_ms = 99\nidle = 1\n\n[[service]]",
            "f.toml:12:19: tcp.max_connections: found 0, expected connections, a whole number from 1 to 16384
f.toml:13:30: tcp.max_queries_per_connection: found 1.5, expected queries, a whole number from 1 to 1000000
f.toml:14:19: tcp.idle_timeout_ms: found 99, expected milliseconds, a number from 100 to 6553500
f.toml:15:1: tcp.idle: found an unknown key, expected one of idle_timeout_ms, max_connections, max_connections_per_prefix, max_queries_per_connection, message_timeout_ms",
        ),
        (
            "[[service]]",
            "[tcp]\nmax_connections = 20\nmax_connections_per_prefix = 21\nmessage_timeout_ms = 60001\n\n[[service]]",
            "f.toml:13:30: tcp.max_connections_per_prefix: found 21, expected connections (at most max_connections), a whole number from 1 to 20
f.toml:14:22: tcp.message_timeout_ms: found 60001, expected milliseconds, a number from 100 to 60000",
        ),
        (
            "[[service]]",
            "[tls]\nport = 53\n\n[[service]]",
            "f.toml:11:1: tls.certificate: found nothing, expected the path of a certificate, followed by its intermediates, in PEM form
f.toml:11:1: tls.key: found nothing, expected the path of its private key, in PEM form
f.toml:12:8: tls.port: found 53, expected a port of its own: 53 is for DNS without TLS",
        ),
        (
            "[[service]]\naddress = \"203.0.113.53:53\"",
            "[tls]\ncertificate = \"a\"\nkey = \"b\"\nport = 8530\n\n[[service]]\naddress = \"198.51.100.1:53\"",
            "f.toml:11:1: tls: found port 8530, so 198.51.100.1:8530, expected a port that control_listen does not take",
        ),
        ("[[service]]", "[service]", "f.toml:11:1: service: found a table, expected tables, each under [[service]]"),
        (
            "@ SOA ns hostmaster 1 7200 900 1209600 60\n",
            "",
            "f.toml:17:1: zone[0].records: found no SOA record of example.org., expected exactly one at the zone's apex",
        ),
        (
            "@ NS ns\n",
            "@ NS ns\n@ SOA ns hostmaster 2 7200 900 1209600 60\n",
            "f.toml:19:1: zone[0].records: found another SOA record, expected exactly one",
        ),
        (
            "mail A 192.0.2.25",
            "mail A 192.0.2.256",
            r#"f.toml:20:8: zone[0].records: found "192.0.2.256", expected an IPv4 address"#,
        ),
        (
            "mail A 192.0.2.25",
            "mail SRV 1 1 x mail",
            r#"f.toml:20:14: zone[0].records: found "x", expected a whole number"#,
        ),
        (
            "mail A 192.0.2.25",
            "mail.example.net. A 192.0.2.25",
            "f.toml:20:1: zone[0].records: found a record of mail.example.net., expected names in zone example.org.",
        ),
        (
            "mail A 192.0.2.25",
            "mail A 192.0.2.25\nmail CNAME ns",
            "f.toml:21:1: zone[0].records: found a CNAME record beside other records of mail.example.org., expected an alias alone",
        ),
        (
            "mail A 192.0.2.25",
            "$INCLUDE other.zone",
            "f.toml:20:10: zone[0].records: found other.zone and no way to read it (No such file or directory (os error 2)), expected a readable zone file",
        ),
        (
            "mail A 192.0.2.25",
            "mail A\na..b TXT x\nmail TXT \"open",
            r#"f.toml:20:7: zone[0].records: found the end of the record, expected an IPv4 address
f.toml:21:1: zone[0].records: found "a..b", expected a domain name
f.toml:22:10: zone[0].records: found a quote and no end of it, expected a closing quote on the same line"#,
        ),
        ("mail A 192.0.2.25", "mail CH A 192.0.2.25", r#"f.toml:20:6: zone[0].records: found "CH", expected class IN"#),
        (
            "mail A 192.0.2.25",
            "mail 4294967295 A 192.0.2.25",
            r#"f.toml:20:6: zone[0].records: found "4294967295", expected a time to live in seconds, a whole number from 0 to 2147483647, or in units, such as 1h30m"#,
        ),
        (
            "mail A 192.0.2.25",
            "mail TXT (\n \"a\" ; c\n \"b\"\n)\n; comment\n\nmail BANANA ns",
            r#"f.toml:26:6: zone[0].records: found "BANANA", expected a record type, such as AAAA or TYPE65280"#,
        ),
        (
            r#"name = "example.org.""#,
            r#"name = "example..org""#,
            r#"f.toml:15:8: zone[0].name: found "example..org", expected a domain name, such as "example.org.""#,
        ),
        (
            "[[race]]",
            "[[zone]]\nname = \"Example.org\"\nrecords = \"@ SOA ns h 1 2 3 4 5\\n@ NS ns.other.\"\n\n[[race]]",
            "f.toml:25:1: zone[1]: found zone example.org. again, expected each zone once",
        ),
        (
            "[[race]]",
            "[[zone]]\nname = \"other.org\"\nrecords = \"@ SOA ns h 1 2 3 4 5\\n@ NS ns.other.\\n@ BANANA a\"\n\n[[race]]",
            r#"f.toml:27:11: zone[1].records: found in line 3 of the text "BANANA", expected a record type, such as AAAA or TYPE65280"#,
        ),
        (
            "[[race]]",
            "[[zone]]\nname = \"other.org\"\nfile = \"missing.zone\"\n\n[[race]]",
            "f.toml:27:8: zone[1].file: found missing.zone and no way to read it (No such file or directory (os error 2)), expected a readable zone file",
        ),
        (
            "[[race]]",
            "[[zone]]\nname = \"other.org\"\n\n[[race]]",
            "f.toml:25:1: zone[1].records: found nothing, expected zone-file text here, or the key file with a path, or primaries to transfer it from",
        ),
        (
            "[[race]]",
            "[[race]]\nname = \"WWW.example.org\"\nfallback.a = [\"192.0.2.1\"]\nsites.x.a = [\"192.0.2.1\"]\n[[race]]",
            "f.toml:30:8: race[1].name: found raced name www.example.org. again, expected each name once",
        ),
        (
            "www.example.org.",
            "www.example.net.",
            "f.toml:26:8: race[0].name: found www.example.net., which is in none of the zones, expected a name in example.org.",
        ),
        (
            "www.example.org.",
            "a.child.example.org.",
            "f.toml:26:8: race[0].name: found a.child.example.org., which is delegated with child.example.org., expected a name that this master answers",
        ),
        (
            "www.example.org.",
            "mail.example.org.",
            "f.toml:26:8: race[0].name: found mail.example.org., which has a plain A record too, expected a name that is raced or plain, not both (race.fallback holds what the master answers itself)",
        ),
        (
            "cover = 0.9",
            "cover = 0",
            "f.toml:27:9: race[0].cover: found 0, expected a share of the agents above 0; 1.0 waits for all of them",
        ),
        (
            "cover = 0.9",
            "cover = 0.9\ndelay_ms = 100",
            "f.toml:27:9: race[0].cover: found cover beside delay_ms, expected a fixed delay_ms, or cover with its margin_ms",
        ),
        (
            "cover = 0.9",
            "transmit = \"signal\"\nsignal = \"go go\"",
            "f.toml:28:10: race[0].signal: found \"go go\", expected 1 to 63 of A-Z, a-z, 0-9, - and _",
        ),
        (
            "cover = 0.9",
            "signal = \"go\"\ncover = 0.9",
            "f.toml:27:10: race[0].signal: found a signal's name without transmit = \"signal\", expected both, or neither
f.toml:28:9: race[0].cover: found cover beside signal, expected no delay: the answers wait for the signal, at most 2 s",
        ),
        (
            "cover = 0.9",
            "delay_ms = 400",
            "f.toml:27:12: race[0].delay_ms: found 400, expected milliseconds, a number from 0 to 300 (max_total_delay_ms)",
        ),
        (
            "cover = 0.9",
            "margin_ms = 301",
            "f.toml:27:13: race[0].margin_ms: found 301, expected milliseconds, a number from 0 to 300",
        ),
        ("cover = 0.9", "late = true", r#"f.toml:27:8: race[0].late: found true, expected "drop" or "send""#),
        (
            "[race.fallback]\na = [\"192.0.2.1\"]",
            "",
            "f.toml:25:1: race[0].fallback: found nothing, expected a table with the addresses that the master answers when no agent can",
        ),
        (
            "[race.sites.tokyo]\na = [\"192.0.2.10\"]\n",
            "",
            "f.toml:25:1: race[0].sites: found nothing, expected at least one [race.sites.NAME] with addresses",
        ),
        (
            r#"["192.0.2.10"]"#,
            "[]",
            "f.toml:32:1: race[0].sites.tokyo: found no answer, expected addresses in a or aaaa, or cname, or ns",
        ),
        (
            r#"["192.0.2.10"]"#,
            r#"["2001:db8::1", "192.0.2.1", "192.0.2.1"]"#,
            r#"f.toml:33:6: race[0].sites.tokyo.a[0]: found "2001:db8::1", expected an IPv4 address of one host, such as "192.0.2.10"
f.toml:33:34: race[0].sites.tokyo.a[2]: found "192.0.2.1" for the second time, expected each once"#,
        ),
        (
            r#"["192.0.2.10"]"#,
            r#""192.0.2.10""#,
            r#"f.toml:33:5: race[0].sites.tokyo.a: found "192.0.2.10", expected an array of IPv4 addresses"#,
        ),
        (
            "sites.tokyo",
            r#"sites."to kyo""#,
            r#"f.toml:32:1: race[0].sites.to kyo: found site "to kyo", expected 1 to 63 of A-Z, a-z, 0-9, - and _"#,
        ),
        (
            "sites.tokyo]\n",
            "sites.tokyo]\nb = 1\n",
            "f.toml:33:1: race[0].sites.tokyo.b: found an unknown key, expected a",
        ),
    ];
    assert_said(MASTER, &cases);
}

#[test]
fn faulty_agents_are_refused_in_these_words() {
    let cases = [
        (
            "departures_per_s = 1000",
            "departures_per_s = 0",
            "f.toml:10:20: limits.departures_per_s: found 0, expected departures per second, a whole number from 1 to 1000000",
        ),
        (
            "departures_per_s = 1000",
            "departures_per_s = 1000\ndepartures_per_prefix_per_s = 1001",
            "f.toml:11:31: limits.departures_per_prefix_per_s: found 1001, above departures_per_s, 1000, expected at most as many as in all",
        ),
        (
            "departures_per_s = 1000",
            r#"allow_private_destinations = "yes""#,
            r#"f.toml:10:30: limits.allow_private_destinations: found "yes", expected true or false"#,
        ),
        (
            "max_bound_ms = 100",
            "max_bound_ms = 2\nmax_expected_error_ms = 2.5",
            "f.toml:14:25: clock.max_expected_error_ms: found 2.5, above max_bound_ms, 2, expected at most the bound: no error exceeds what is proven",
        ),
        (
            "max_bound_ms = 100",
            "on_bad_clock = \"hope\"",
            "f.toml:13:16: clock.on_bad_clock: found \"hope\", expected \"stand-down\" or \"after\"",
        ),
        (
            "max_bound_ms = 100",
            "[departure]\nmax_lateness_ms = 0",
            "f.toml:14:19: departure.max_lateness_ms: found 0, expected milliseconds, a number from 0.01 to 1000",
        ),
        (
            "max_bound_ms = 100",
            "[departure]\ncpu = 1024",
            "f.toml:14:7: departure.cpu: found 1024, expected the number of a processor, a whole number from 0 to 1023",
        ),
        (
            "max_bound_ms = 100",
            "exchange_interval_ms = 1",
            "f.toml:13:24: clock.exchange_interval_ms: found 1, expected milliseconds, a number from 50 to 10000",
        ),
        (
            "max_bound_ms = 100",
            "source = \"gps\"\nhost_source = \"chrony\"\nhost_bound_ms = 0",
            r#"f.toml:13:10: clock.source: found "gps", expected "auto" or "host" or "master"
f.toml:14:15: clock.host_source: found "chrony", expected "auto" or "kernel" or "clock-bound" or "phc" or "none"
f.toml:15:17: clock.host_bound_ms: found 0, expected milliseconds, a number from 0.001 to 10000"#,
        ),
        (
            "max_bound_ms = 100",
            "source = \"host\"\nhost_source = \"none\"\nhost_bound_ms = 1\nclock_bound_path = \"x\"",
            r#"f.toml:13:10: clock.source: found "host" beside host_source = "none", expected a source that is there
f.toml:15:17: clock.host_bound_ms: found host_bound_ms beside host_source = "none", expected it with "auto", "kernel" or "phc" only
f.toml:16:20: clock.clock_bound_path: found clock_bound_path beside host_source = "none", expected it with "auto" or "clock-bound" only"#,
        ),
        (
            "max_bound_ms = 100",
            "host_source = \"phc\"",
            r#"f.toml:12:1: clock.phc_device: found nothing, expected the device of the hardware clock, such as "/dev/ptp0"
f.toml:12:1: clock.phc_minus_utc_s: found nothing, expected what the hardware clock shows more than UTC: 37 where it counts TAI, 0 for UTC
f.toml:12:1: clock.host_bound_ms: found nothing, expected how far the hardware clock may be off; nothing else tells"#,
        ),
        (
            "max_bound_ms = 100",
            "phc_device = \"/dev/ptp0\"\nphc_minus_utc_s = 37.5",
            r#"f.toml:13:14: clock.phc_device: found phc_device beside host_source = "auto", expected it with "phc" only
f.toml:14:19: clock.phc_minus_utc_s: found phc_minus_utc_s beside host_source = "auto", expected it with "phc" only
f.toml:14:19: clock.phc_minus_utc_s: found 37.5, expected seconds, a whole number from -1000 to 1000"#,
        ),
        (
            "[[master]]",
            "[clock_distortion]\nstep_s = 1\n[[master]]",
            r#"f.toml:15:1: clock_distortion.step_at_raw_ns: found nothing, expected when the clock steps by step_s"#,
        ),
        (
            "[[master]]",
            "[clock_distortion]\nstep_at_raw_ns = -1\nrealtime_offset_s = \"x\"\n[[master]]",
            r#"f.toml:15:1: clock_distortion.step_s: found nothing, expected by how much the clock steps at step_at_raw_ns
f.toml:17:21: clock_distortion.realtime_offset_s: found "x", expected seconds, a number from -31536000 to 31536000"#,
        ),
        (
            "name = \"tokyo\"\n",
            "name = \"tokyo\"\nsite = \"to/kyo\"\nfast_path_advertise = \"0.0.0.0:8531\"\n",
            r#"f.toml:3:8: site: found "to/kyo", expected 1 to 63 of A-Z, a-z, 0-9, - and _
f.toml:4:23: fast_path_advertise: found "0.0.0.0:8531", expected one exact address: masters send orders to it"#,
        ),
        (
            r#"["203.0.113.53:53"]"#,
            "[]",
            "f.toml:18:21: master[0].service_addresses: found none, expected at least one address with port",
        ),
        (
            r#"["203.0.113.53:53"]"#,
            r#"["203.0.113.53:53", "203.0.113.53:53"]"#,
            r#"f.toml:18:41: master[0].service_addresses[1]: found "203.0.113.53:53" for the second time, expected each once"#,
        ),
        (
            r#"["203.0.113.53:53"]"#,
            r#"["[::]:53", 53]"#,
            r#"f.toml:18:22: master[0].service_addresses[0]: found "[::]:53", expected one exact address: it becomes the source of answers, and must be what the resolver asked
f.toml:18:33: master[0].service_addresses[1]: found 53, expected an IP address and a port from 1, such as "198.51.100.1:8530" or "[2001:db8::1]:8530""#,
        ),
        (
            "[[master]]",
            "[[master]]\nname = \"m1\"\ncontrol = \"198.51.100.2:8530\"\nservice_addresses = [\"203.0.113.53:53\"]\n[[master]]",
            r#"f.toml:20:8: master[1].name: found "m1" again, expected a name that master[0].name has not taken"#,
        ),
        (
            r#"control = "198.51.100.1:8530""#,
            "control = \"198.51.100.1:0\"\nsignal_propagation_ms = { least = 5, greatest = 5 }",
            r#"f.toml:17:11: master[0].control: found "198.51.100.1:0", expected an IP address and a port from 1, such as "198.51.100.1:8530" or "[2001:db8::1]:8530"
f.toml:18:25: master[0].signal_propagation_ms: found least = 5 and greatest = 5, expected greatest above least"#,
        ),
        (
            r#"control = "198.51.100.1:8530""#,
            "control = \"198.51.100.1:1\"\nsignal_propagation_ms = { least = 5 }",
            "f.toml:18:25: master[0].signal_propagation_ms.greatest: found nothing, expected milliseconds, a number from 0 to 10000",
        ),
        (
            "[[master]]\nname = \"m1\"\ncontrol = \"198.51.100.1:8530\"\nservice_addresses = [\"203.0.113.53:53\"]\n",
            "",
            "f.toml:1:1: master: found nothing, expected at least one [[master]] with name, control and service_addresses",
        ),
    ];
    assert_said(AGENT, &cases);
}
