//! A folder of pictures. Included by the programs that read one.

use std::fs;
use std::path::Path;

/// Three classes by colour, six pictures each of several sizes, and two a class for testing. The last of `train/b` is
/// no picture.
pub fn write_pictures(folder: &Path) {
    for (part, most) in [("train", 6u8), ("val", 2)] {
        for (label, class) in ["a", "b", "c"].into_iter().enumerate() {
            let class = folder.join(part).join(class);
            fs::create_dir_all(&class).unwrap();
            for number in 0..most {
                let colour: [u8; 3] = std::array::from_fn(|channel| if channel == label { 200 } else { 10 * number });
                let (width, height) = (9 + u32::from(number), 12);
                let file = fs::File::create(class.join(format!("{number}.png"))).unwrap();
                let mut encoder = png::Encoder::new(file, width, height);
                encoder.set_color(png::ColorType::Rgb);
                let pixels = colour.repeat((width * height) as usize);
                encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
            }
        }
    }
    fs::write(folder.join("train/b/5.png"), "no picture").unwrap();
}
