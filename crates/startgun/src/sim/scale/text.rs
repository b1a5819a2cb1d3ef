//! The report for people.

use startgun_sim::scale::AT_MASTER;
use std::fmt::Write;

use super::report::{HEADER_BYTES, LinkRate, Report};

/// Width of the first column.
const LABEL: usize = 44;

/// A row of the links' table: its name, the figure, and its decimals.
type Figure = (&'static str, fn(&LinkRate) -> f64, usize);

/// What a reader calls the master's counters.
const OUTCOMES: [(&str, &str); 13] = [
    ("races", "raced"),
    ("queries_amended", "moved a race to a repeated query"),
    ("queries_repeated_answered", "repeated too late, answered at once"),
    ("queries_repeated_ignored", "repeated after an answer, ignored"),
    ("queries_duplicate", "doubled on the way, ignored"),
    ("answers_truncated", "told to come back over TCP: not validated"),
    ("queries_dropped_rate", "dropped by the rate"),
    ("answers_fallback_budget", "answered at once: over the budget"),
    ("answers_fallback_table_full", "answered at once: table of races full"),
    ("answers_fallback_no_agent", "answered at once: no agent ready"),
    ("answers_central", "answered at once: not raced"),
    ("queries_ignored", "ignored"),
    ("queries_malformed", "malformed"),
];

impl Report {
    /// Tables and sentences, with a line end after each line.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_head(&mut text);
        self.write_caches(&mut text);
        self.write_master(&mut text);
        self.write_races(&mut text);
        self.write_links(&mut text);
        self.write_carries(&mut text);
        self.notes.iter().for_each(|note| line(&mut text, note));
        text
    }

    fn write_head(&self, text: &mut String) {
        line(text, &format!("Startgun: a day of {} resolvers and {} sites", whole(self.resolvers as u64), self.sites));
        line(
            text,
            &format!(
                "{}, {} places, master at {}; {} names; the day lasts {} s; seed {}",
                self.network,
                self.places,
                self.master,
                whole(self.names as u64),
                whole(u64::from(self.day_s)),
                self.seed
            ),
        );
        if (self.sites_ready as usize) < self.sites {
            line(text, &format!("{} of the sites raced when the day began; the others stood down.", self.sites_ready));
        }
        line(text, "");
    }

    fn write_caches(&self, text: &mut String) {
        let of_all = |count| share(count, self.client_queries);
        row(text, "Questions of the resolvers' clients", self.client_queries, "");
        row(text, "  answered from the resolver's cache", self.cache_hits, &of_all(self.cache_hits));
        row(text, "  joined to a query that was under way", self.joined, &of_all(self.joined));
        row(text, "  asked of the master", self.asked, &of_all(self.asked));
        let of_asked = |count| share(count, self.asked);
        row(text, "    answered first by a site", self.answered_by.sites, &of_asked(self.answered_by.sites));
        row(text, "    answered first by the master", self.answered_by.master, &of_asked(self.answered_by.master));
        row(text, "    answered over TCP", self.answered_by.tcp, &of_asked(self.answered_by.tcp));
        row(text, "    never answered", self.answered_by.nobody, &of_asked(self.answered_by.nobody));
        line(text, "");
    }

    fn write_master(&self, text: &mut String) {
        row(text, "Queries at the master over UDP", self.queries, "");
        row(text, "  of them sent again without an answer", self.repeats, &share(self.repeats, self.queries));
        for (name, _) in AT_MASTER {
            let count = self.at_master.get(name).copied().unwrap_or(0);
            let label = OUTCOMES.iter().find(|(known, _)| *known == name).map_or(name, |(_, label)| label);
            if count > 0 {
                row(text, &format!("  {label}"), count, &share(count, self.queries));
            }
        }
        line(text, "");
    }

    fn write_races(&self, text: &mut String) {
        row(text, "Races", self.races, "");
        row(text, "Orders", self.orders, "");
        row(text, "Answers that departed", self.departures, "");
        row(text, "Answers that reached resolvers", self.answers_received, "the master's included");
        let choice = &self.choice;
        line(
            text,
            &format!(
                "The site of the least latency won {:.1} % of the races, one within 5 ms of it {:.1} %; the mean loss is {:.2} ms.",
                choice.lowest_share * 100.0,
                choice.within_5ms_share * 100.0,
                choice.mean_loss_ms
            ),
        );
        let answer = &self.first_answer_ms;
        if let (Some(p50), Some(p95), Some(p99)) = (answer.p50, answer.p95, answer.p99) {
            let delay_ms = self.predetermined_delay_ms;
            line(
                text,
                &format!(
                    "From a query to a site's answer: {p50} ms (median), {p95} ms (p95), {p99} ms (p99), of them {delay_ms:.0} ms \
                     predetermined delay."
                ),
            );
        }
        line(text, "");
    }

    fn write_links(&self, text: &mut String) {
        let hour = &self.busiest_hour;
        line(text, &format!("The busiest hour, {} to {} o'clock, per second of the run", hour.hour, hour.hour + 1));
        let columns = |one: &str, other: &str, third: &str| format!("{one:>14}{other:>14}{third:>16}");
        line(text, &format!("{:LABEL$}{}", "", columns("master", "site, mean", "busiest site")));
        let figures: [Figure; 4] = [
            ("  packets in", |rate| rate.in_packets_per_s, 0),
            ("  packets out", |rate| rate.out_packets_per_s, 0),
            ("  Mbit in", |rate| rate.in_mbit_per_s, 1),
            ("  Mbit out", |rate| rate.out_mbit_per_s, 1),
        ];
        for (label, of, decimals) in figures {
            let cell = |rate| decimal(of(rate), decimals);
            let cells = columns(&cell(&hour.master), &cell(&hour.site), &cell(&hour.busiest_site));
            line(text, &format!("{label:LABEL$}{cells}"));
        }
        for (label, per_s) in [
            ("  questions of the resolvers' clients", hour.client_queries_per_s),
            ("  queries at the master", hour.queries_per_s),
            ("  races", hour.races_per_s),
            ("  queries over TCP", hour.tcp_queries_per_s),
        ] {
            line(text, &format!("{label:LABEL$}{:>14}", decimal(per_s, 0)));
        }
        line(
            text,
            &format!(
                "Every packet counts with {HEADER_BYTES} bytes of Ethernet, IPv4 and UDP. Busiest site: {}.",
                hour.busiest_site_name
            ),
        );
        line(text, "");
    }

    fn write_carries(&self, text: &mut String) {
        let (costs, carries) = (&self.costs, &self.carries);
        let extent = if costs.race_is_measured { "" } else { ", on a straight line beyond what was measured" };
        line(text, &format!("What a core and a link carry, by the costs in {}", costs.source));
        let us = |label: &str, us: f64, rest: &str| format!("  {label:<42}{:>14} µs{rest}", decimal(us, 2));
        line(text, &us(&format!("a race with {} sites, at the master", self.sites), costs.race_us, extent));
        line(text, &us("an answer without a race, at the master", costs.central_us, ""));
        line(text, &us("an order, at a site", costs.order_us, ""));
        for (label, value, decimals) in [
            ("  cores that the busiest hour takes, master", carries.master_cores, 3),
            ("  cores that it takes, a site", carries.site_cores, 4),
            ("  one core of the master: queries/s", carries.core_queries_per_s, 0),
            ("    of them races", carries.core_races_per_s, 0),
            ("    for clients' questions", carries.core_client_queries_per_s, 0),
            ("  one core of a site: races/s", carries.site_orders_per_s, 0),
            ("  1 Gbit/s at the master: races/s", carries.gigabit_master_races_per_s, 0),
            ("  1 Gbit/s at a site: races/s", carries.gigabit_site_races_per_s, 0),
        ] {
            line(text, &format!("{label:LABEL$}{:>14}", decimal(value, decimals)));
        }
        line(
            text,
            &format!(
                "A race weighs {} bytes out and {} in at the master, {} out and {} in at a site.",
                decimal(carries.race_bytes_master_out, 0),
                decimal(carries.race_bytes_master_in, 0),
                decimal(carries.race_bytes_site_out, 0),
                decimal(carries.race_bytes_site_in, 0)
            ),
        );
    }
}

fn line(text: &mut String, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", content.trim_end());
}

fn row(text: &mut String, label: &str, count: u64, rest: &str) {
    line(text, &format!("{label:LABEL$}{:>14}  {rest}", whole(count)));
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!("{:5.1} %", part as f64 / whole as f64 * 100.0) }
}

/// With commas between thousands.
fn whole(number: u64) -> String {
    let digits = number.to_string();
    let comma = |(place, digit): (usize, char)| {
        let is_thousand = place > 0 && (digits.len() - place).is_multiple_of(3);
        is_thousand.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(comma).collect()
}

/// With commas and so many decimals.
fn decimal(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (digits, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    digits.parse().map_or(text.clone(), |digits| whole(digits) + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_commas_between_thousands() {
        assert_eq!([0, 999, 1_000, 12_345_678].map(whole), ["0", "999", "1,000", "12,345,678"]);
        assert_eq!(decimal(1_234.56, 1), "1,234.6");
        assert_eq!(decimal(999.96, 1), "1,000.0");
        assert_eq!(decimal(0.0, 0), "0");
    }

    #[test]
    fn every_counter_of_the_master_has_a_name_for_readers() {
        let known = OUTCOMES.map(|(name, _)| name);
        assert_eq!(known, AT_MASTER.map(|(name, _)| name));
    }
}
