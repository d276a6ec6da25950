// An exported ncnn model on a picture:
//
//     ncnn EXPORT_FOLDER PICTURE [MAP.pgm]
//
// prints the record as JSON, and writes the map of classes of semantic segmentation.

#include <iostream>

#include <ncnn/net.h>

#define STB_IMAGE_IMPLEMENTATION
#include "featherbone.hpp"

namespace fb = featherbone;

// ncnn may leave gaps between the channels of a Mat, so they are copied one at a time.
ncnn::Mat to_mat(const fb::Input& input, int height, int width) {
    ncnn::Mat mat(width, height, 3);
    const size_t size = size_t(height) * width;
    for (int c = 0; c < 3; c++) std::copy_n(&input.values[c * size], size, static_cast<float*>(mat.channel(c)));
    return mat;
}

fb::Tensor to_tensor(const ncnn::Mat& mat) {
    fb::Tensor tensor{{mat.c, mat.h, mat.w}, {}};
    tensor.shape.erase(tensor.shape.begin(), tensor.shape.end() - mat.dims);
    for (int c = 0; c < mat.c; c++) {
        const float* data = mat.channel(c);
        tensor.values.insert(tensor.values.end(), data, data + size_t(mat.h) * mat.w);
    }
    return tensor;
}

int main(int argc, char** argv) try {
    if (argc < 3 || argc > 4) throw fb::Error("pass EXPORT_FOLDER PICTURE [MAP.pgm]");
    const std::filesystem::path folder = argv[1];
    const fb::Json about = fb::read_about(folder, "ncnn");
    ncnn::Net net;
    // As in the proof of the file. On ARM, float16 storage also holds for the values between layers.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = about.at("precision") == "fp16";
    net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = false;  // faster, less exact
    const std::filesystem::path param = folder / about.at("file");
    if (net.load_param(param.c_str()) ||
        net.load_model(std::filesystem::path(param).replace_extension(".bin").c_str()))
        throw fb::Error(param.string() + " is refused by ncnn " NCNN_VERSION_STRING "; link a newer version");

    const fb::Image image = fb::read_image(argv[2]);
    const fb::Input input = fb::prepare(image, about);
    ncnn::Extractor extractor = net.create_extractor();
    extractor.input("in0", to_mat(input, about.at("input").at("height"), about.at("input").at("width")));
    fb::Outputs outputs;
    int i = 0;
    for (const std::string name : about.at("outputs")) {  // they are out0, out1, ... of the model
        ncnn::Mat mat;
        if (extractor.extract(("out" + std::to_string(i++)).c_str(), mat)) throw fb::Error(name + " is not computed");
        outputs[name] = to_tensor(mat);
    }
    const fb::Result result = fb::decode(outputs, about, image.size, input.inner);

    std::cout << result.record.dump(2) << "\n";
    if (argc == 4) fb::write_map(result, image.size, argv[3]);
} catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
}
