// From a picture to the input of an exported file, and from its outputs to records, by featherbone.json, in C++17.
// Needs nlohmann/json and stb_image; one source file defines STB_IMAGE_IMPLEMENTATION first. See docs/decoding.md.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <nlohmann/json.hpp>
#include <stb/stb_image.h>

namespace featherbone {

using Json = nlohmann::ordered_json;

struct Size { int height, width; };
struct Image { Size size; std::vector<uint8_t> pixels; };  // R G B of each pixel, row by row
struct Input { Size inner; std::vector<float> values; };  // (channel, row, column), and the picture's size on it
struct Tensor { std::vector<int64_t> shape; std::vector<float> values; };  // of one image: without the batch's axis
using Outputs = std::map<std::string, Tensor>;  // by the names in featherbone.json
struct Object { std::array<float, 4> box; float score; size_t label; };
struct Result { Json record; std::vector<uint8_t> map; };  // with the class of each pixel, for `label_map`
struct Error : std::runtime_error { using std::runtime_error::runtime_error; };

inline Json read_about(const std::filesystem::path& folder, const std::string& target) {
    std::ifstream file(folder / "featherbone.json");
    if (!file) throw Error(folder.string() + " has no featherbone.json; pass the folder of an export");
    const Json about = Json::parse(file);
    if (about.at("target") != target)
        throw Error("this program runs files for " + target + ", and this one is for " +
                    about.at("target").get<std::string>() + "; export with --to " + target);
    const Json& input = about.at("input");
    if (input.at("dtype") != "float32" || input.at("channels") != "RGB")
        throw Error("this program passes R G B as floats, and the file takes " + input.at("channels").dump() + " as " +
                    input.at("dtype").get<std::string>() + "; export a model of RGB pictures, without --with-pre");
    return about;
}

// Orientation of a JPEG file by its EXIF data, 1 to 8; 1 if it states none.
inline int exif_orientation(const std::vector<uint8_t>& file) {
    const auto big = [&](size_t i) { return i + 1 < file.size() ? file[i] << 8 | file[i + 1] : 0; };
    if (big(0) != 0xFFD8) return 1;
    for (size_t at = 2; at + 4 <= file.size() && file[at] == 0xFF && file[at + 1] != 0xDA; at += 2 + big(at + 2)) {
        if (file[at + 1] != 0xE1 || big(at + 4) != 0x4578) continue;  // APP1 that starts with "Ex"
        const size_t tiff = at + 10;
        const bool little = big(tiff) == 0x4949;
        const auto two = [&](size_t i) { const int x = big(i); return little ? (x & 255) << 8 | x >> 8 : x; };
        const size_t entries = tiff + (little ? two(tiff + 4) : two(tiff + 6));  // offsets here fit into 16 bits
        for (int i = 0; i < two(entries); i++)
            if (const size_t entry = entries + 2 + 12 * i; two(entry) == 0x0112) {
                const int value = two(entry + 8);
                return value >= 1 && value <= 8 ? value : 1;
            }
    }
    return 1;
}

// An 8-bit picture in RGB, over white where it is transparent, and upright: orientations 2 to 4 mirror it, 5 to 8 also
// exchange rows and columns.
inline Image read_image(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    const std::vector<uint8_t> file{std::istreambuf_iterator<char>(stream), {}};
    int width = 0, height = 0, channels = 0;
    uint8_t* data = stbi_load_from_memory(file.data(), int(file.size()), &width, &height, &channels, 4);
    if (!data) throw Error(path.string() + " cannot be read: " + (stream ? stbi_failure_reason() : "no such file"));
    const int turn = exif_orientation(file);
    const bool exchanged = turn > 4;
    const bool right = turn == 2 || turn == 3 || turn == 7 || turn == 8;
    const bool down = turn == 3 || turn == 4 || turn == 6 || turn == 7;
    Image image{exchanged ? Size{width, height} : Size{height, width}, {}};
    for (int y = 0; y < image.size.height; y++)
        for (int x = 0; x < image.size.width; x++) {
            int row = exchanged ? x : y, column = exchanged ? y : x;
            if (down) row = height - 1 - row;
            if (right) column = width - 1 - column;
            const uint8_t* pixel = data + 4 * (size_t(row) * width + column);
            for (int c = 0; c < 3; c++) {
                const unsigned sum = pixel[c] * pixel[3] + 255 * (255 - pixel[3]) + 128;
                image.pixels.push_back(uint8_t((sum + (sum >> 8)) >> 8));  // sum / 255, rounded
            }
        }
    stbi_image_free(data);
    return image;
}

struct Taps { int first; std::vector<double> weights; };  // the pixels of a line that make one of the resized line

inline double bicubic(double x) {
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// A line of `old` pixels resized to `length`, with weights of 22 bits, as in Pillow; `smooth` averages what is reduced.
inline std::vector<Taps> resize_line(int old, int length, bool cubic, bool smooth) {
    const double scale = double(old) / length, widened = smooth ? std::max(scale, 1.0) : 1;
    const double support = (cubic ? 2 : 1) * widened;
    std::vector<Taps> line;
    for (int i = 0; i < length; i++) {
        const double centre = (i + 0.5) * scale;
        Taps taps{std::max(0, int(centre - support + 0.5)), {}};
        for (int k = taps.first; k < std::min(old, int(centre + support + 0.5)); k++) {
            const double x = std::abs(k - centre + 0.5) * (1 / widened);
            taps.weights.push_back(cubic ? bicubic(x) : std::max(0.0, 1 - x));
        }
        const double sum = std::accumulate(taps.weights.begin(), taps.weights.end(), 0.0);
        for (double& weight : taps.weights) weight = std::round(weight / sum * (1 << 22)) / (1 << 22);
        line.push_back(std::move(taps));
    }
    return line;
}

// One side of an array (before, old, after) resized; bytes are rounded.
template <class T>
std::vector<T> resize_side(const std::vector<T>& values, size_t before, size_t old, size_t after,
                           const std::vector<Taps>& line) {
    std::vector<T> result;
    for (size_t b = 0; b < before; b++)
        for (const auto& [first, weights] : line)
            for (size_t a = 0; a < after; a++) {
                double sum = 0;
                const T* value = &values[(b * old + first) * after + a];
                for (size_t k = 0; k < weights.size(); k++) sum += value[k * after] * weights[k];
                if (std::is_same_v<T, uint8_t>) sum = std::clamp(std::floor(sum + 0.5), 0.0, 255.0);
                result.push_back(T(sum));
            }
    return result;
}

// A picture (row, column, channel) resized, of which only the upper left `part` counts.
template <class T>
std::vector<T> resize(const std::vector<T>& values, Size old, Size part, size_t channels, Size size, bool cubic = false,
                      bool smooth = false) {
    const auto wide = resize_side(values, old.height, old.width, channels,
                                  resize_line(part.width, size.width, cubic, smooth));
    return resize_side(wide, 1, old.height, size.width * channels,
                       resize_line(part.height, size.height, cubic, smooth));
}

inline int half_even(double x) { return int(std::nearbyint(x)); }  // in the rounding mode of a new program

// Height and width to which a picture is resized.
inline Size resized_size(Size size, const Json& rules) {
    const Json& resize = rules.at("resize");
    const int height = resize.at("height"), width = resize.at("width");
    if (rules.at("rule") == "fit") {
        const double scale = std::min(double(height) / size.height, double(width) / size.width);
        return {std::clamp(half_even(size.height * scale), 1, height),
                std::clamp(half_even(size.width * scale), 1, width)};
    }
    if (resize.at("rounding") == "down") {
        const int shorter = std::min(size.height, size.width);
        return {int(int64_t(height) * size.height / shorter), int(int64_t(width) * size.width / shorter)};
    }
    const double ratio = std::min(double(size.height) / height, double(size.width) / width);
    return {half_even(size.height / ratio), half_even(size.width / ratio)};
}

// The network's input from a picture: resized, cropped or padded, and normalised.
inline Input prepare(const Image& image, const Json& about) {
    const Json& rules = about.at("input");
    const int height = rules.at("height"), width = rules.at("width");
    const std::string filter = rules.at("resize").at("filter");
    if (filter != "bilinear" && filter != "bicubic")
        throw Error("this program resizes bilinear and bicubic, and the file needs " + filter + "; see picture.py");
    const Size size = resized_size(image.size, rules);
    const auto pixels = resize(image.pixels, image.size, image.size, 3, size, filter == "bicubic", true);
    const bool centre = rules.at("placement") == "centre";
    const int top = centre ? half_even((size.height - height) / 2.0) : 0;
    const int left = centre ? half_even((size.width - width) / 2.0) : 0;
    const auto mean = rules.at("mean").get<std::array<float, 3>>(), std = rules.at("std").get<std::array<float, 3>>();
    Input input{centre ? Size{height, width} : size, std::vector<float>(size_t(3) * height * width)};  // padding is 0
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < input.inner.height; y++)
            for (int x = 0; x < input.inner.width; x++) {
                const float value = pixels[(size_t(top + y) * size.width + left + x) * 3 + c];
                input.values[(size_t(c) * height + y) * width + x] = (value / 255.0f - mean[c]) / std[c];
            }
    return input;
}

// Indices of the highest values, highest first.
template <class T>
std::vector<size_t> highest(const std::vector<T>& values, size_t count) {
    std::vector<size_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] > values[b]; });
    order.resize(std::min(count, order.size()));
    return order;
}

inline Json softmax(const Outputs& outputs, const Json& about) {
    std::vector<float> scores = outputs.at("logits").values;
    const float largest = *std::max_element(scores.begin(), scores.end());
    for (float& score : scores) score = std::exp(score - largest);
    const float sum = std::accumulate(scores.begin(), scores.end(), 0.0f);
    Json classes = Json::array();
    for (const size_t i : highest(scores, about.at("decode").at("top")))
        classes.push_back({{"label", i}, {"name", about.at("classes").at(i)}, {"score", scores[i] / sum}});
    return {{"task", "classification"}, {"classes", classes}};
}

// Objects above the threshold for display, with boxes of the input mapped to the picture.
inline Json detections(const std::vector<Object>& objects, const Json& about, Size size, Size inner) {
    const float shown = about.at("decode").at("shown");
    const float limits[2] = {float(size.width), float(size.height)};
    const float scale[2] = {limits[0] / inner.width, limits[1] / inner.height};
    Json rows = Json::array();
    for (auto [box, score, label] : objects) {
        for (int i = 0; i < 4; i++) box[i] = std::clamp(box[i] * scale[i % 2], 0.0f, limits[i % 2]);
        if (score > shown && box[2] > box[0] && box[3] > box[1])
            rows.push_back({{"label", label}, {"name", about.at("classes").at(label)}, {"score", score}, {"box", box}});
    }
    return {{"task", "detection"}, {"height", size.height}, {"width", size.width}, {"objects", rows}};
}

inline Json nms_free(const Outputs& outputs, const Json& about, Size size, Size inner) {
    const Json& how = about.at("decode");
    std::vector<Object> candidates;
    std::vector<float> values;  // their logits, which differ where scores are rounded to the same number
    for (size_t level = 0; level < how.at("strides").size(); level++) {
        const Tensor& logits = outputs.at("logits_" + std::to_string(level));  // (class, row, column)
        const float* d = outputs.at("distances_" + std::to_string(level)).values.data();  // (side, row, column)
        const float stride = how.at("strides").at(level);
        const size_t columns = logits.shape[2], cells = logits.shape[1] * columns;
        for (size_t cell = 0; cell < cells; cell++) {
            const float x = cell % columns + 0.5f, y = cell / columns + 0.5f;
            const std::array<float, 4> box = {
                (x - d[cell]) * stride, (y - d[cell + cells]) * stride,
                (x + d[cell + 2 * cells]) * stride, (y + d[cell + 3 * cells]) * stride};
            for (size_t label = 0; label < size_t(logits.shape[0]); label++) {
                values.push_back(logits.values[label * cells + cell]);
                candidates.push_back({box, 1 / (1 + std::exp(-values.back())), label});
            }
        }
    }
    std::vector<Object> objects;
    for (const size_t i : highest(values, how.at("limit"))) objects.push_back(candidates[i]);
    return detections(objects, about, size, inner);
}

// A detector exported with NMS; labels are passed as floats, too.
inline Json found(const Outputs& outputs, const Json& about, Size size, Size inner) {
    const auto &boxes = outputs.at("boxes").values, &scores = outputs.at("scores").values;
    std::vector<Object> objects;
    for (size_t i = 0; i < scores.size(); i++)
        objects.push_back({{boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]}, scores[i],
                           size_t(outputs.at("labels").values[i])});
    return detections(objects, about, size, inner);
}

inline Result label_map(const Outputs& outputs, const Json& about, Size size, Size inner) {
    const Tensor& logits = outputs.at("logits");  // (class, row, column)
    const Size canvas = {about.at("input").at("height"), about.at("input").at("width")};
    const Size cells = {int(logits.shape[1]), int(logits.shape[2])};
    std::vector<float> best(size_t(size.height) * size.width, -INFINITY);
    std::vector<uint8_t> labels(best.size());
    for (int64_t label = 0; label < logits.shape[0]; label++) {  // in turn: little memory for large pictures
        const auto first = logits.values.begin() + label * cells.height * cells.width;
        const std::vector<float> map(first, first + cells.height * cells.width);
        const auto values = resize(resize(map, cells, cells, 1, canvas), canvas, inner, 1, size);
        for (size_t i = 0; i < best.size(); i++)
            if (values[i] > best[i]) best[i] = values[i], labels[i] = uint8_t(label);  // the first of equals
    }
    std::vector<size_t> pixels(logits.shape[0]);  // of each class
    for (const uint8_t label : labels) pixels[label]++;
    Json classes = Json::array();
    for (const size_t i : highest(pixels, pixels.size()))
        if (pixels[i] > 0)
            classes.push_back({{"label", i}, {"name", about.at("classes").at(i)}, {"pixels", pixels[i]},
                               {"share", double(pixels[i]) / labels.size()}});
    return {{{"task", "semantic"}, {"height", size.height}, {"width", size.width}, {"classes", classes}}, labels};
}

// The record of a picture of `size` that covers `inner` of the input.
inline Result decode(const Outputs& outputs, const Json& about, Size size, Size inner) {
    const std::string kind = about.at("decode").at("kind");
    if (kind == "softmax") return {softmax(outputs, about), {}};
    if (kind == "nms_free") return {nms_free(outputs, about, size, inner), {}};
    if (kind == "found") return {found(outputs, about, size, inner), {}};
    if (kind == "label_map") return label_map(outputs, about, size, inner);
    throw Error("this program decodes softmax, nms_free, found and label_map, and the file needs " + kind +
                "; examples/decode has it in Python");
}

// Write a map of classes as a grey picture (PGM).
inline void write_map(const Result& result, Size size, const std::filesystem::path& path) {
    if (result.map.empty()) throw Error("this file finds no map; omit " + path.string());
    std::ofstream file(path, std::ios::binary);
    file << "P5\n" << size.width << " " << size.height << "\n255\n";
    if (!file.write(reinterpret_cast<const char*>(result.map.data()), std::streamsize(result.map.size())))
        throw Error(path.string() + " cannot be written");
}

}  // namespace featherbone
