//! Charts as SVG, whose colours are the page's: readable in light and dark.

use plotters::prelude::*;
use std::ops::Range;

/// Width and height in pixels; the page scales it.
const SIZE: (u32, u32) = (640, 380);
/// Colours that stand for the page's, and are replaced by them: text, grid, and the first of the series.
const TEXT: RGBColor = RGBColor(1, 2, 3);
const GRID: RGBColor = RGBColor(4, 5, 6);
const FIRST_SERIES: u8 = 0x10;
/// Series of one chart, at most: the page has so many colours.
pub const SERIES_MAX: u8 = 5;

/// One line of a chart.
pub struct Line {
    pub name: &'static str,
    /// Which of the page's colours, from 0.
    pub colour: u8,
    pub points: Vec<(f64, f64)>,
    /// Whether each point is shown: it was computed, and what lies between was not.
    pub is_dotted: bool,
}

/// A chart of lines over an axis.
pub struct Chart {
    pub title: &'static str,
    /// What the axes show, with units.
    pub x: &'static str,
    pub y: &'static str,
    pub x_range: Range<f64>,
    pub y_range: Range<f64>,
    pub lines: Vec<Line>,
}

fn series_colour(colour: u8) -> RGBColor {
    RGBColor(FIRST_SERIES + colour.min(SERIES_MAX - 1), 0x11, 0x12)
}

/// A number as an axis shows it.
fn short(number: &f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A round number that is at least this, for the end of an axis.
pub fn round_up(number: f64) -> f64 {
    let magnitude = 10f64.powf(number.max(0.01).log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.iter().map(|step| step * magnitude).find(|end| *end >= number).unwrap_or(10.0 * magnitude)
}

impl Chart {
    /// The chart as an `<svg>` element.
    ///
    /// # Errors
    /// What the plotting library says.
    pub fn svg(&self) -> Result<String, String> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|error| format!("drawing {:?}: {error}", self.title))?;
        let mut svg = svg.replace("#010203", "currentColor").replace("#040506", "var(--grid)");
        for colour in 0..SERIES_MAX {
            svg = svg.replace(&format!("#{:02X}1112", FIRST_SERIES + colour), &format!("var(--series-{colour})"));
        }
        // The page's width decides, and readers of screens hear the title.
        let (width, height) = SIZE;
        let fixed = format!("<svg width=\"{width}\" height=\"{height}\"");
        Ok(svg.replacen(&fixed, &format!("<svg role=\"img\" aria-label=\"{}\"", self.title), 1))
    }

    fn draw(&self, svg: &mut String) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .margin_right(20)
            .x_label_area_size(56)
            .y_label_area_size(68)
            .build_cartesian_2d(self.x_range.clone(), self.y_range.clone())?;
        let text = |size: i32| ("sans-serif", size).into_font().color(&TEXT);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(1))
            .axis_style(GRID.stroke_width(1))
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels(8)
            .y_labels(6)
            .label_style(text(17))
            .axis_desc_style(text(18))
            .x_label_formatter(&short)
            .y_label_formatter(&short)
            .draw()?;
        for line in &self.lines {
            let colour = series_colour(line.colour);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
            if line.is_dotted {
                chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
            }
        }
        root.present()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_the_pages_colours_and_says_what_it_shows() {
        let line = |colour| Line { name: "race", colour, points: vec![(0.0, 0.0), (1.0, 2.0)], is_dotted: true };
        let chart = Chart {
            title: "Loss",
            x: "clock error in ms",
            y: "loss in ms",
            x_range: 0.0..1.0,
            y_range: 0.0..2.0,
            lines: (0..SERIES_MAX).map(line).collect(),
        };
        let svg = chart.svg().expect("drawn");
        for part in ["aria-label=\"Loss\"", "clock error in ms", "loss in ms", "currentColor", "var(--grid)"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        (0..SERIES_MAX).for_each(|colour| assert!(svg.contains(&format!("\"var(--series-{colour})\"")), "{colour}"));
        assert!(!svg.contains("\"#"), "a colour of its own: {svg}");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let ends = [0.0, 0.7, 1.0, 1.01, 7.0, 83.0, 120.0].map(round_up);
        assert_eq!(ends.map(|end| (end * 1000.0).round() / 1000.0), [0.01, 0.8, 1.0, 1.5, 8.0, 100.0, 150.0]);
        assert_eq!([0.5, 12.0, 100.0].map(|number| short(&number)), ["0.5", "12", "100"]);
    }
}
