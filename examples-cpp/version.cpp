// version.cpp: which library is this?
//
//   c++ -std=c++17 version.cpp $(pkg-config --cflags --libs aquila) -o version && ./version
#include <aquila.hpp>
#include <iostream>

int main() {
    std::cout << "libaquila " << aquila_version_string() << "\n" << aquila_build_info() << "\n";
}
