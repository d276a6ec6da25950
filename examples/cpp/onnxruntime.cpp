// An exported ONNX file on a picture, with ONNX Runtime:
//
//     onnxruntime EXPORT_FOLDER PICTURE [MAP.pgm]
//
// prints the record as JSON, and writes the map of classes of semantic segmentation.

#include <iostream>

#include <onnxruntime_cxx_api.h>

#define STB_IMAGE_IMPLEMENTATION
#include "featherbone.hpp"

namespace fb = featherbone;

// The values of an output, without the batch's axis; labels are integers.
fb::Tensor to_tensor(const Ort::Value& value) {
    const auto info = value.GetTensorTypeAndShapeInfo();
    const auto shape = info.GetShape();
    fb::Tensor tensor{{shape.begin() + 1, shape.end()}, {}};
    const size_t count = info.GetElementCount();
    if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) {
        const auto* data = value.GetTensorData<int64_t>();
        tensor.values.assign(data, data + count);
    } else {
        const auto* data = value.GetTensorData<float>();
        tensor.values.assign(data, data + count);
    }
    return tensor;
}

fb::Outputs run(Ort::Session& session, fb::Input& input, const fb::Json& about) {
    const std::array<int64_t, 4> shape = {1, 3, about.at("input").at("height"), about.at("input").at("width")};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto images = Ort::Value::CreateTensor<float>(memory, input.values.data(), input.values.size(), shape.data(),
                                                        shape.size());
    const auto input_name = about.at("input").at("name").get<std::string>();
    const auto output_names = about.at("outputs").get<std::vector<std::string>>();
    const char* name = input_name.c_str();
    std::vector<const char*> names;
    for (const auto& output : output_names) names.push_back(output.c_str());
    const auto values = session.Run(Ort::RunOptions{}, &name, &images, 1, names.data(), names.size());
    fb::Outputs outputs;
    for (size_t i = 0; i < values.size(); i++) outputs[output_names[i]] = to_tensor(values[i]);
    return outputs;
}

int main(int argc, char** argv) try {
    if (argc < 3 || argc > 4) throw fb::Error("pass EXPORT_FOLDER PICTURE [MAP.pgm]");
    const std::filesystem::path folder = argv[1];
    const fb::Json about = fb::read_about(folder, "onnx");
    const Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "featherbone");
    Ort::Session session(env, (folder / about.at("file")).c_str(), Ort::SessionOptions{});

    const fb::Image image = fb::read_image(argv[2]);
    fb::Input input = fb::prepare(image, about);
    const fb::Outputs outputs = run(session, input, about);
    const fb::Result result = fb::decode(outputs, about, image.size, input.inner);

    std::cout << result.record.dump(2) << "\n";
    if (argc == 4) fb::write_map(result, image.size, argv[3]);
} catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
}
