//! Names in canonical form: uncompressed wire format, ASCII letters in lower case (RFC 4034 section 6.2).
//!
//! In this form equality and suffix tests are comparisons of bytes, and a map's key can be looked up by a slice.

use domain::base::name::{Name, ToLabelIter};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Longest name on the wire, RFC 1035 section 2.3.4.
pub const MAX_NAME: usize = 255;

/// A name in canonical form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalName(Box<[u8]>);

/// A text is not a domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a domain name: {fault}")]
pub struct NameError {
    /// What was found.
    pub text: String,
    /// Why.
    pub fault: String,
}

impl CanonicalName {
    /// The bytes of the wire format, root label included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The canonical form of a name that is given by its labels.
    pub fn from_labels(name: &impl ToLabelIter) -> Self {
        let (bytes, length) = canonical(name);
        CanonicalName(bytes[..length].into())
    }

    /// The name of uncompressed wire format, in whatever case.
    pub(super) fn of_wire(bytes: &[u8]) -> Self {
        CanonicalName(bytes.to_ascii_lowercase().into())
    }

    /// The name of bytes that are in canonical form already.
    pub(super) fn from_canonical(bytes: &[u8]) -> Self {
        CanonicalName(bytes.into())
    }

    /// Whether the leftmost label is an asterisk (RFC 4592 section 2.1.1).
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with(b"\x01*")
    }

    /// The name without its leftmost label; `None` for the root.
    pub fn parent(&self) -> Option<CanonicalName> {
        parent(&self.0).map(|bytes| CanonicalName(bytes.into()))
    }

    /// Whether `name`, in canonical form, is this name or lies below it.
    pub fn is_ancestor_or_self_of(&self, name: &[u8]) -> bool {
        suffixes(name).any(|suffix| suffix == self.as_bytes())
    }

    /// Whether a query for `name`, in canonical form, is one for this name: itself or, for a wildcard, anything
    /// below the wildcard's parent.
    pub fn covers(&self, name: &[u8]) -> bool {
        match self.is_wildcard() {
            true => suffixes(name).skip(1).any(|suffix| suffix == &self.0[2..]),
            false => name == self.as_bytes(),
        }
    }
}

impl FromStr for CanonicalName {
    type Err = NameError;

    /// Reads presentation format; a missing final dot is added.
    fn from_str(text: &str) -> Result<Self, NameError> {
        Name::<Vec<u8>>::from_str(text)
            .map(|name| CanonicalName::from_labels(&name))
            .map_err(|error| NameError { text: text.into(), fault: error.to_string() })
    }
}

impl fmt::Display for CanonicalName {
    /// Presentation format with the final dot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Name::<&[u8]>::from_octets(&self.0) {
            Ok(name) => write!(f, "{}", name.fmt_with_dot()),
            Err(_) => unreachable!("made from a name"),
        }
    }
}

impl fmt::Debug for CanonicalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes the canonical form of `name` and returns its length. A name on the wire has at most [`MAX_NAME`] bytes.
pub(super) fn canonical(name: &impl ToLabelIter) -> ([u8; MAX_NAME], usize) {
    let mut bytes = [0; MAX_NAME];
    let mut length = 0;
    for label in name.iter_labels() {
        bytes[length] = label.len() as u8;
        for (to, from) in bytes[length + 1..].iter_mut().zip(label.as_slice()) {
            *to = from.to_ascii_lowercase();
        }
        length += 1 + label.len();
    }
    (bytes, length)
}

/// The name without its leftmost label; `None` for the root.
pub(super) fn parent(name: &[u8]) -> Option<&[u8]> {
    match name.first() {
        None | Some(0) => None,
        Some(&length) => name.get(usize::from(length) + 1..),
    }
}

/// The name, its parent, and so on to the root; at most 128 of them.
pub(super) fn suffixes(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::successors(Some(name), |name| parent(name))
}

/// Canonical order of two canonical names (RFC 4034 section 6.1): by labels from the right, each as bytes.
pub(super) fn canonical_order(left: &[u8], right: &[u8]) -> Ordering {
    let (left_labels, left_count) = label_starts(left);
    let (right_labels, right_count) = label_starts(right);
    let label = |name: &[u8], start: u8| {
        let start = usize::from(start);
        start + 1..start + 1 + usize::from(name[start])
    };
    let of_left = left_labels[..left_count].iter().rev();
    for (&l, &r) in of_left.zip(right_labels[..right_count].iter().rev()) {
        let order = left[label(left, l)].cmp(&right[label(right, r)]);
        if order.is_ne() {
            return order;
        }
    }
    left_count.cmp(&right_count)
}

/// Where each label of a name begins, the root left out, and how many there are: at most 127 of one byte each.
fn label_starts(name: &[u8]) -> ([u8; 128], usize) {
    let mut starts = [0; 128];
    let mut count = 0;
    let mut at = 0;
    while name.get(at).is_some_and(|length| *length != 0) {
        starts[count] = at as u8;
        count += 1;
        at += usize::from(name[at]) + 1;
    }
    (starts, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CanonicalName {
        text.parse().expect("a name")
    }

    #[test]
    fn case_and_final_dot_make_no_difference() {
        assert_eq!(name("WwW.Example.Org"), name("www.example.org."));
        assert_eq!(name("WwW.Example.Org").to_string(), "www.example.org.");
        assert!("a..b".parse::<CanonicalName>().is_err());
    }

    #[test]
    fn a_wildcard_covers_what_lies_below_its_parent() {
        let wildcard = name("*.cdn.test");
        assert!(wildcard.is_wildcard());
        assert!(wildcard.covers(name("a.cdn.test").as_bytes()));
        assert!(wildcard.covers(name("b.a.cdn.test").as_bytes()));
        assert!(!wildcard.covers(name("cdn.test").as_bytes()));
        assert!(!wildcard.covers(name("xcdn.test").as_bytes()));
        assert!(name("cdn.test").covers(name("cdn.test").as_bytes()));
        assert!(!name("cdn.test").covers(name("a.cdn.test").as_bytes()));
    }

    #[test]
    fn names_are_ordered_as_rfc_4034_section_6_1_lists_them() {
        let sorted = [
            "example",
            "a.example",
            "yljkjljk.a.example",
            "Z.a.example",
            "zABC.a.EXAMPLE",
            "z.example",
            "\\001.z.example",
            "*.z.example",
            "\\200.z.example",
        ];
        for pair in sorted.windows(2) {
            let (left, right) = (name(pair[0]), name(pair[1]));
            assert_eq!(canonical_order(left.as_bytes(), right.as_bytes()), Ordering::Less, "{left} {right}");
            assert_eq!(canonical_order(right.as_bytes(), left.as_bytes()), Ordering::Greater, "{right} {left}");
        }
        assert_eq!(canonical_order(name(".").as_bytes(), name("example").as_bytes()), Ordering::Less);
    }

    #[test]
    fn ancestry_goes_by_labels() {
        assert!(name("test").is_ancestor_or_self_of(name("cdn.test").as_bytes()));
        assert!(!name("dn.test").is_ancestor_or_self_of(name("cdn.test").as_bytes()));
        assert!(name(".").is_ancestor_or_self_of(name("cdn.test").as_bytes()));
        assert_eq!(name("a.b").parent(), Some(name("b")));
        assert_eq!(name(".").parent(), None);
    }
}
