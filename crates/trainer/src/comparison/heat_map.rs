//! Where a network looks: the connections of each pixel, as pictures.

use base64::prelude::{BASE64_STANDARD, Engine};

use super::statistics::evenly;
use super::{ComparisonError, Group, Results};
use crate::figure::DrawingError;
use crate::topology_record::TopologyHistory;

/// Maps of all groups at one density, on one scale.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Maps {
    /// The density asked for.
    pub density: f64,
    /// What the brightest colour stands for, and all above it.
    pub most: f64,
    /// The colours from 0 to `most`, as a data URI.
    pub scale: String,
    /// One for each group.
    pub rows: Vec<MapRow>,
}

/// Maps of a group.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MapRow {
    /// Index of the arm.
    pub arm: usize,
    /// Runs whose mean it is.
    pub runs: usize,
    /// Steps and pictures, as data URIs. One if nothing changed.
    pub maps: Vec<(u64, String)>,
    /// The last step, if one map stands for all.
    pub unchanged_until: Option<u64>,
}

/// Points in time.
const TIMES: usize = 4;
/// Pictures are shown at most so many pixels large each way.
const LARGEST: usize = 64;

/// Viridis (S. van der Walt and N. Smith, 2015), which grows brighter evenly, for all kinds of colour vision.
const COLOURS: [[u8; 3]; 9] = [
    [0x44, 0x01, 0x54],
    [0x47, 0x2d, 0x7b],
    [0x3b, 0x52, 0x8b],
    [0x2c, 0x72, 0x8e],
    [0x21, 0x91, 0x8c],
    [0x28, 0xae, 0x80],
    [0x5e, 0xc9, 0x62],
    [0xad, 0xdc, 0x30],
    [0xfd, 0xe7, 0x25],
];

/// Connections of each pixel, of a group at one time: values, row by row, and their width.
#[derive(Debug, Clone, PartialEq)]
struct Field {
    step: u64,
    values: Vec<f64>,
    width: usize,
}

/// Maps of the groups at a density whose networks begin with a sparse linear layer; none if there is none.
///
/// # Errors
/// [`ComparisonError::Drawing`] if a picture cannot be encoded.
pub(super) fn maps(results: &Results, density: f64) -> Result<Option<Maps>, ComparisonError> {
    let groups = results.groups.iter().filter(|group| !group.is_dense() && group.density == density);
    let fields: Vec<(usize, usize, Vec<Field>)> = groups
        .map(|group| (group.arm, group.finished().count(), fields(group)))
        .filter(|(.., f)| !f.is_empty())
        .collect();
    // At the end of the training: a network that begins dense would leave all others dark.
    let most = fields.iter().filter_map(|(.., fields)| fields.last()).map(bright).fold(0.0, f64::max);
    if most == 0.0 {
        return Ok(None);
    }
    let mut rows = Vec::new();
    for (arm, runs, fields) in fields {
        let still = fields.iter().all(|field| field.values == fields[0].values);
        let unchanged_until = (still && fields.len() > 1).then(|| fields[fields.len() - 1].step);
        let shown = if still { &fields[..1] } else { &fields[..] };
        let picture = |field: &Field| {
            let rgb = field.values.iter().flat_map(|value| colour(value / most)).collect::<Vec<u8>>();
            Ok((field.step, data_uri(&rgb, field.width)?))
        };
        let maps = shown.iter().map(picture).collect::<Result<Vec<_>, ComparisonError>>()?;
        rows.push(MapRow { arm, runs, maps, unchanged_until });
    }
    let gradient: Vec<u8> = (0..=255).flat_map(|i| colour(f64::from(i) / 255.0)).collect();
    Ok(Some(Maps { density, most, scale: data_uri(&gradient, 256)?, rows }))
}

/// Means over the finished runs at evenly spaced times.
fn fields(group: &Group) -> Vec<Field> {
    let histories: Vec<&TopologyHistory> = group.finished().map(|(_, run)| &run.topology).collect();
    let records = histories.iter().map(|history| history.records.len()).min().unwrap_or(0);
    // As long as the first layer is dense there is nothing to show.
    let known = |&record: &usize| histories.iter().all(|history| history.records[record].input_connections.is_some());
    let known: Vec<usize> = (0..records).filter(known).collect();
    evenly(known.len(), TIMES).filter_map(|i| field(&histories, known[i])).collect()
}

/// What 99 % of the pixels do not exceed: single pixels may have far more than all others. If that is nothing, the most.
fn bright(field: &Field) -> f64 {
    let mut values = field.values.clone();
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    let high = values[(0.99 * last as f64).round() as usize];
    if high > 0.0 { high } else { values[last] }
}

fn field(histories: &[&TopologyHistory], record: usize) -> Option<Field> {
    let [channels, height, width] = histories.first()?.input_shape;
    let mut values = vec![0.0; height * width];
    for history in histories {
        let counts = history.records[record].input_connections.as_ref()?;
        if history.input_shape != [channels, height, width] || counts.len() != channels * height * width {
            return None;
        }
        for (i, &count) in counts.iter().enumerate() {
            values[i % (height * width)] += f64::from(count) / histories.len() as f64;
        }
    }
    let step = histories[0].records[record].step;
    Some(shrunk(Field { step, values, width }))
}

/// Means over squares of pixels, where there are more than can be shown.
fn shrunk(field: Field) -> Field {
    let height = field.values.len() / field.width.max(1);
    let side = field.width.max(height).div_ceil(LARGEST);
    if side <= 1 {
        return field;
    }
    let (width, new_height) = (field.width.div_ceil(side), height.div_ceil(side));
    let mut sums = vec![(0.0, 0); width * new_height];
    for (i, value) in field.values.iter().enumerate() {
        let (row, column) = (i / field.width, i % field.width);
        let (sum, count) = &mut sums[row / side * width + column / side];
        (*sum, *count) = (*sum + value, *count + 1);
    }
    let values = sums.into_iter().map(|(sum, count)| sum / f64::from(count.max(1))).collect();
    Field { step: field.step, values, width }
}

/// The colour of a share of the scale.
fn colour(share: f64) -> [u8; 3] {
    let at = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let lower = (at as usize).min(COLOURS.len() - 2);
    let mix = |channel: usize| {
        let [a, b] = [lower, lower + 1].map(|i| f64::from(COLOURS[i][channel]));
        (a + (b - a) * (at - lower as f64)).round() as u8
    };
    [mix(0), mix(1), mix(2)]
}

fn data_uri(rgb: &[u8], width: usize) -> Result<String, ComparisonError> {
    let mut file = Vec::new();
    let height = rgb.len() / 3 / width.max(1);
    // Neighbouring pixels have little to do with each other: filters make the file larger.
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::NoFilter);
    let encoded = encoder.write_header().and_then(|mut writer| writer.write_image_data(rgb));
    encoded.map_err(|error| DrawingError { what: "a map of connections".to_owned(), reason: error.to_string() })?;
    Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(file)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Made;
    use super::super::{GroupRun, RunFolder};
    use super::*;
    use crate::topology_record::TopologyRecord;

    fn history(counts: &[&[u32]], input_shape: [usize; 3]) -> TopologyHistory {
        let record = |(epoch, counts): (usize, &&[u32])| TopologyRecord {
            epoch: epoch as u64,
            step: 10 * epoch as u64,
            input_connections: Some(counts.to_vec()),
            nnz: vec![3],
            ..TopologyRecord::default()
        };
        let records = counts.iter().enumerate().map(record).collect();
        TopologyHistory { layers: vec!["fc1".to_owned()], sizes: vec![9], input_shape, records }
    }

    /// Two runs of two channels of 1 × 2 pixels.
    #[test]
    fn a_field_is_the_mean_over_runs_of_the_sum_over_channels() {
        let [a, b] = [[1, 2, 3, 4], [5, 6, 7, 8]].map(|counts| history(&[&counts], [2, 1, 2]));
        let field = field(&[&a, &b], 0).unwrap();
        assert_eq!(field, Field { step: 0, values: vec![8.0, 10.0], width: 2 });
        let other = history(&[&[1, 2]], [1, 1, 2]);
        assert_eq!(super::field(&[&a, &other], 0), None);
    }

    /// A network that begins dense does not set the scale.
    #[test]
    fn the_scale_ends_at_what_pixels_have_after_the_training() {
        let run = |name: &str, counts: &[&[u32]]| {
            let folder = tempfile::tempdir().unwrap();
            let path = Made::new(name, 0.1, 0, 0.8).write(folder.path());
            let topology = history(counts, [1, 1, 2]);
            let folder = RunFolder { topology, ..RunFolder::read(&path).unwrap() };
            let run = GroupRun { seed: 0, path, folder: Some(folder), failure: None };
            (name.to_owned(), run)
        };
        let runs = [run("gmp", &[&[300, 300], &[9, 2]]), run("static", &[&[5, 7], &[5, 7]])];
        let groups = runs.into_iter().enumerate().map(|(arm, (method, run))| Group {
            arm,
            method,
            density: 0.1,
            runs: vec![run],
            published: vec![],
        });
        let mut results = Results {
            title: String::new(),
            source: None,
            notes: None,
            arms: vec!["gmp".to_owned(), "static".to_owned()],
            groups: groups.collect(),
            reference: None,
        };
        let both = maps(&results, 0.1).unwrap().unwrap();
        assert_eq!((both.most, both.rows.len()), (9.0, 2));
        assert_eq!((both.rows[0].maps.len(), both.rows[1].unchanged_until), (2, Some(10)));
        results.groups.remove(0);
        assert_eq!(maps(&results, 0.1).unwrap().unwrap().most, 7.0);
        // One pixel of a hundred does not set it either, unless there is no other.
        let of = |mut values: Vec<f64>, one: f64| {
            values[3] = one;
            bright(&Field { step: 0, values, width: 10 })
        };
        assert_eq!((of(vec![5.0; 100], 80.0), of(vec![0.0; 100], 80.0)), (5.0, 80.0));
    }

    #[test]
    fn large_pictures_are_shrunk() {
        let values = (0..130 * 65).map(|i| f64::from(i % 130)).collect();
        let field = shrunk(Field { step: 1, values, width: 130 });
        assert_eq!((field.width, field.values.len()), (44, 44 * 22));
        // The mean of 0, 1, 2; at the right edge of 129 alone.
        assert_eq!((field.values[0], field.values[43]), (1.0, 129.0));
    }

    #[test]
    fn colours_go_from_dark_to_bright() {
        assert_eq!([colour(0.0), colour(1.0), colour(7.0)], [COLOURS[0], COLOURS[8], COLOURS[8]]);
        let brightness = |share| colour(share).iter().map(|&c| u32::from(c)).sum::<u32>();
        assert!((0..8).all(|i| brightness(f64::from(i) / 8.0) < brightness(f64::from(i + 1) / 8.0)));
    }

    #[test]
    fn a_picture_is_read_back_as_it_was() {
        let rgb: Vec<u8> = (0..12).map(|i| i * 20).collect();
        let uri = data_uri(&rgb, 2).unwrap();
        let png = BASE64_STANDARD.decode(uri.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut read = vec![0; 12];
        let frame = reader.next_frame(&mut read).unwrap();
        assert_eq!((frame.color_type, frame.width, frame.height, read), (png::ColorType::Rgb, 2, 2, rgb));
    }
}
